//! Who may do what, as Envoy's role-based access control: one decision over the union of all policies.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::Any;

use super::Context;
use super::http::{header_matchers, regex};
use super::ingress::policies;
use super::tls::members;
use super::wire::{HttpRbac, HttpRbacPerRoute, NetworkRbac, Rules, any_as};
use crate::ingest::{HttpMatch, ServiceAccount};
use crate::view::{Access, Grant, Ingress, PolicyName, Requests};

/// Prefix of the statistics and of Envoy's dynamic metadata of what would have been denied.
pub(super) const AUDIT: &str = "audit.";

/// The filter of a connection manager: nothing is allowed until the routes say otherwise. Envoy takes the prefix from
/// here and not from the routes.
pub(super) fn deny_all(audited: bool) -> Any {
    let prefix = if audited { AUDIT } else { "" };
    let rbac = HttpRbac {
        rules: Some(rules(BTreeMap::new())),
        shadow_rules_stat_prefix: prefix.to_owned(),
        ..Default::default()
    };
    any_as("envoy.extensions.filters.http.rbac.v3.RBAC", &rbac)
}

/// Policies by name.
pub(super) type Policies = BTreeMap<String, rbac::Policy>;

/// What is allowed, and what would be.
#[derive(Default)]
pub(super) struct Verdicts {
    /// Nothing else is allowed; everything when `None`.
    rules: Option<Policies>,
    /// What else is tried is counted.
    shadow: Option<Policies>,
}

impl Verdicts {
    /// Whether anything is let through that rules do not allow.
    pub(super) fn audited(&self) -> bool {
        self.shadow.is_some()
    }
}

/// What callers with TLS may do: the rules of the mesh and what `ingress` grants. Where callers get this far who are no
/// members of the mesh, "everybody" is every member of it.
pub(super) fn over_tls(context: Context<'_>, access: &Access, ingress: &Ingress) -> Verdicts {
    let more = || policies(context, &ingress.tls);
    let everybody = || {
        let member = rbac::Principal { identifier: Some(member(context)) };
        let any = vec![permission(rbac::permission::Rule::Any(true))];
        let policy = rbac::Policy { permissions: any, principals: vec![member], ..Default::default() };
        Policies::from([("members of the mesh".to_owned(), policy)])
    };
    let all = || (!ingress.tls.is_empty()).then(|| everybody().into_iter().chain(more()).collect());
    match access {
        Access::Everyone => Verdicts { rules: all(), shadow: None },
        Access::Only(grants) => {
            Verdicts { rules: Some(union(context, grants).into_iter().chain(more()).collect()), shadow: None }
        }
        Access::Audited(grants) => Verdicts {
            rules: all(),
            shadow: Some(union(context, grants).into_iter().chain(more()).collect()),
        },
    }
}

/// What callers without TLS may do: what `ingress` grants and, where the mesh accepts them (`permissive`), what it says
/// of callers without a name.
pub(super) fn over_plaintext(
    context: Context<'_>,
    access: &Access,
    ingress: &Ingress,
    permissive: bool,
) -> Verdicts {
    let granted = policies(context, &ingress.plaintext);
    match access {
        _ if !permissive => Verdicts { rules: Some(granted), shadow: None },
        Access::Everyone => Verdicts::default(),
        Access::Only(grants) => Verdicts {
            rules: Some(union(context, grants).into_iter().chain(granted).collect()),
            shadow: None,
        },
        Access::Audited(grants) => Verdicts {
            rules: None,
            shadow: Some(union(context, grants).into_iter().chain(granted).collect()),
        },
    }
}

/// What the routes of a port say. No `rbac` at all switches the filter off.
pub(super) fn per_route(verdicts: Verdicts) -> Any {
    let said = verdicts.rules.is_some() || verdicts.audited();
    let rbac = HttpRbac {
        rules: verdicts.rules.map(rules),
        shadow_rules: verdicts.shadow.map(rules),
        ..Default::default()
    };
    let config = HttpRbacPerRoute { rbac: said.then_some(rbac) };
    any_as("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &config)
}

/// The filter of a TCP port; `None` when everybody may connect.
pub(super) fn network(verdicts: Verdicts, stat_prefix: &str) -> Option<Any> {
    if verdicts.rules.is_none() && verdicts.shadow.is_none() {
        return None;
    }
    let prefix = if verdicts.audited() { AUDIT } else { "" };
    let rbac = NetworkRbac {
        stat_prefix: stat_prefix.to_owned(),
        rules: verdicts.rules.map(rules),
        shadow_rules: verdicts.shadow.map(rules),
        shadow_rules_stat_prefix: prefix.to_owned(),
    };
    Some(any_as("envoy.extensions.filters.network.rbac.v3.RBAC", &rbac))
}

fn rules(policies: Policies) -> Rules {
    Rules { action: rbac::rbac::Action::Allow.into(), policies }
}

fn union(context: Context<'_>, grants: &BTreeMap<PolicyName, Grant>) -> Policies {
    grants.iter().map(|(name, grant)| (name.to_string(), policy(context, grant))).collect()
}

/// What a certificate must say.
pub(super) fn authenticated(pattern: matcher::string_matcher::MatchPattern) -> rbac::principal::Identifier {
    let name = matcher::StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    rbac::principal::Identifier::Authenticated(rbac::principal::Authenticated { principal_name: Some(name) })
}

/// A certificate of the trust domain. Envoy's own "any" is any TLS connection, with a certificate or without.
pub(super) fn member(context: Context<'_>) -> rbac::principal::Identifier {
    authenticated(matcher::string_matcher::MatchPattern::Prefix(members(&context.view.trust_domain)))
}

pub(super) fn permissions(requests: &Requests) -> Vec<rbac::Permission> {
    match requests {
        Requests::Any => vec![permission(rbac::permission::Rule::Any(true))],
        Requests::Matching(matches) => matches.iter().map(request).collect(),
    }
}

fn policy(context: Context<'_>, grant: &Grant) -> rbac::Policy {
    let exactly = |source: &ServiceAccount| {
        let id = source.spiffe_id(&context.view.trust_domain);
        let pattern = matcher::string_matcher::MatchPattern::Exact(id);
        rbac::Principal { identifier: Some(authenticated(pattern)) }
    };
    rbac::Policy {
        permissions: permissions(&grant.requests),
        principals: grant.sources.iter().map(exactly).collect(),
        ..Default::default()
    }
}

pub(super) fn permission(rule: rbac::permission::Rule) -> rbac::Permission {
    rbac::Permission { rule: Some(rule) }
}

/// All parts of a match must fit.
fn request(one: &HttpMatch) -> rbac::Permission {
    let path = one.path.as_ref().map(|text| url_path(text));
    let clear = one.tells_paths().then(|| {
        let ambiguous = url_path(&format!(".*{}.*", HttpMatch::AMBIGUOUS));
        rbac::permission::Rule::NotRule(Box::new(permission(ambiguous)))
    });
    let headers = header_matchers(one).into_iter().map(rbac::permission::Rule::Header);
    let rules: Vec<_> = path.into_iter().chain(clear).chain(headers).map(permission).collect();
    if rules.is_empty() {
        return permission(rbac::permission::Rule::Any(true));
    }
    permission(rbac::permission::Rule::AndRules(rbac::permission::Set { rules }))
}

/// The path without the query fits an expression.
fn url_path(text: &str) -> rbac::permission::Rule {
    let text = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(text))),
        ..Default::default()
    };
    let path = matcher::PathMatcher { rule: Some(matcher::path_matcher::Rule::Path(text)) };
    rbac::permission::Rule::UrlPath(path)
}
