//! Who may do what, as Envoy's role-based access control: one decision over the union of all policies.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::Any;

use super::Context;
use super::http::header_matchers;
use super::wire::{HttpRbac, HttpRbacPerRoute, NetworkRbac, Rules, any_as};
use crate::ingest::HttpMatch;
use crate::view::{Access, Grant, PolicyName, Requests};

/// Prefix of the statistics of what would have been denied.
const AUDIT: &str = "audit_";

/// The filter of a connection manager: nothing is allowed until the routes say otherwise.
pub(super) fn deny_all() -> Any {
    let rbac = HttpRbac { rules: Some(rules(BTreeMap::new())), ..Default::default() };
    any_as("envoy.extensions.filters.http.rbac.v3.RBAC", &rbac)
}

/// What the routes of a port say. No `rbac` at all switches the filter off.
pub(super) fn per_route(context: Context<'_>, access: &Access) -> Any {
    let rbac = match access {
        Access::Everyone => None,
        Access::Only(grants) => Some(HttpRbac { rules: Some(union(context, grants)), ..Default::default() }),
        Access::Audited(grants) => Some(HttpRbac {
            shadow_rules: Some(union(context, grants)),
            shadow_rules_stat_prefix: AUDIT.to_owned(),
            ..Default::default()
        }),
    };
    any_as("envoy.extensions.filters.http.rbac.v3.RBACPerRoute", &HttpRbacPerRoute { rbac })
}

/// The filter of a TCP port; `None` when everybody may connect.
pub(super) fn network(context: Context<'_>, access: &Access, stat_prefix: &str) -> Option<Any> {
    let mut rbac = NetworkRbac { stat_prefix: stat_prefix.to_owned(), ..Default::default() };
    match access {
        Access::Everyone => return None,
        Access::Only(grants) => rbac.rules = Some(union(context, grants)),
        Access::Audited(grants) => {
            rbac.shadow_rules = Some(union(context, grants));
            rbac.shadow_rules_stat_prefix = AUDIT.to_owned();
        }
    }
    Some(any_as("envoy.extensions.filters.network.rbac.v3.RBAC", &rbac))
}

fn rules(policies: BTreeMap<String, rbac::Policy>) -> Rules {
    Rules { action: rbac::rbac::Action::Allow.into(), policies }
}

fn union(context: Context<'_>, grants: &BTreeMap<PolicyName, Grant>) -> Rules {
    rules(grants.iter().map(|(name, grant)| (name.to_string(), policy(context, grant))).collect())
}

fn policy(context: Context<'_>, grant: &Grant) -> rbac::Policy {
    let permissions = match &grant.requests {
        Requests::Any => vec![permission(rbac::permission::Rule::Any(true))],
        Requests::Matching(matches) => matches.iter().map(request).collect(),
    };
    let principals = grant.sources.iter().map(|source| rbac::Principal {
        identifier: Some(rbac::principal::Identifier::Authenticated(rbac::principal::Authenticated {
            principal_name: Some(matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(
                    source.spiffe_id(&context.view.trust_domain),
                )),
                ..Default::default()
            }),
        })),
    });
    rbac::Policy { permissions, principals: principals.collect(), ..Default::default() }
}

fn permission(rule: rbac::permission::Rule) -> rbac::Permission {
    rbac::Permission { rule: Some(rule) }
}

/// All parts of a match must fit.
fn request(one: &HttpMatch) -> rbac::Permission {
    let path = one.path.as_ref().map(|regex| {
        rbac::permission::Rule::UrlPath(matcher::PathMatcher {
            rule: Some(matcher::path_matcher::Rule::Path(matcher::StringMatcher {
                match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(super::http::regex(
                    regex,
                ))),
                ..Default::default()
            })),
        })
    });
    let headers = header_matchers(one).into_iter().map(rbac::permission::Rule::Header);
    let rules: Vec<_> = path.into_iter().chain(headers).map(permission).collect();
    if rules.is_empty() {
        return permission(rbac::permission::Rule::Any(true));
    }
    permission(rbac::permission::Rule::AndRules(rbac::permission::Set { rules }))
}
