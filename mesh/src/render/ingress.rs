//! Callers outside the mesh, and how many calls a port takes.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::local_ratelimit::v3 as http_limit;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::local_ratelimit::v3 as network_limit;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::envoy::r#type::v3 as types;
use envoy_types::pb::google::protobuf::Any;

use super::Context;
use super::http::{filter, network_filter, route_match};
use super::rbac::{Policies, authenticated, member, permission, permissions};
use super::wire::{any, number, seconds};
use crate::ingest::{Bucket, HttpLimit, HttpMatch, Limits};
use crate::view::{Certificate, IngressGrant};

/// Name of the filter by which per-route configuration refers to it.
const HTTP_LIMIT: &str = "envoy.filters.http.local_ratelimit";

/// Grants as policies. Several of one IngressBackend are told apart by their place.
pub(super) fn policies(context: Context<'_>, grants: &[IngressGrant]) -> Policies {
    let named = grants.iter().enumerate().map(|(index, grant)| {
        let name = format!("IngressBackend {}#{index}", grant.name);
        (name, policy(context, grant))
    });
    named.collect()
}

fn policy(context: Context<'_>, grant: &IngressGrant) -> rbac::Policy {
    let names: Vec<_> = grant.server_names.iter().map(|name| server_name(name)).collect();
    let mut permissions = permissions(&grant.requests);
    if !names.is_empty() {
        let names = permission(rbac::permission::Rule::OrRules(rbac::permission::Set { rules: names }));
        let both = |one| {
            permission(rbac::permission::Rule::AndRules(rbac::permission::Set {
                rules: vec![one, names.clone()],
            }))
        };
        permissions = permissions.into_iter().map(both).collect();
    }
    let ids = [
        grant.addresses.as_ref().map(|ranges| {
            any_of(ranges.iter().map(|range| {
                rbac::principal::Identifier::DirectRemoteIp(core::CidrRange {
                    address_prefix: range.address.to_string(),
                    prefix_len: number(u32::from(range.prefix)),
                })
            }))
        }),
        certificate(context, &grant.certificate),
    ];
    let ids = ids.into_iter().flatten().collect();
    let principal = principal(rbac::principal::Identifier::AndIds(rbac::principal::Set { ids }));
    rbac::Policy { permissions, principals: vec![principal], ..Default::default() }
}

fn principal(identifier: rbac::principal::Identifier) -> rbac::Principal {
    rbac::Principal { identifier: Some(identifier) }
}

fn any_of(ids: impl Iterator<Item = rbac::principal::Identifier>) -> rbac::Principal {
    principal(rbac::principal::Identifier::OrIds(rbac::principal::Set { ids: ids.map(principal).collect() }))
}

fn certificate(context: Context<'_>, needed: &Certificate) -> Option<rbac::Principal> {
    use matcher::string_matcher::MatchPattern;
    match needed {
        Certificate::Unneeded => None,
        Certificate::Any => Some(principal(member(context))),
        Certificate::Named(names) => {
            Some(any_of(names.iter().map(|name| authenticated(MatchPattern::Exact(name.clone())))))
        }
    }
}

fn server_name(name: &str) -> rbac::Permission {
    use matcher::string_matcher::MatchPattern;
    let pattern = match name.strip_prefix('*') {
        Some(tail) => MatchPattern::Suffix(tail.to_owned()),
        None => MatchPattern::Exact(name.to_owned()),
    };
    permission(rbac::permission::Rule::RequestedServerName(matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..Default::default()
    }))
}

/// The limit of new connections of a port. Whoever comes over it is closed.
pub(super) fn connection_limit(limits: Option<&Limits>, stat_prefix: &str) -> Option<listener::Filter> {
    let config = network_limit::LocalRateLimit {
        stat_prefix: stat_prefix.to_owned(),
        token_bucket: Some(token_bucket(limits?.connections?)),
        ..Default::default()
    };
    Some(network_filter("envoy.filters.network.local_ratelimit", any(&config)))
}

/// Puts the filter of request limits before the router, where whoever may not call is already refused. Limits are said
/// by the routes.
pub(super) fn limit_requests(manager: &mut hcm::HttpConnectionManager, limits: Option<&Limits>) {
    if limits.is_none_or(|limits| limits.requests.is_none() && limits.routes.is_empty()) {
        return;
    }
    let off = http_limit::LocalRateLimit { stat_prefix: "limit".to_owned(), ..Default::default() };
    let last = manager.http_filters.len().saturating_sub(1);
    manager.http_filters.insert(last, filter(HTTP_LIMIT, any(&off)));
}

/// The one route to the application, with the limit of the service; routes with their own limits before it.
pub(super) fn limited(to_app: &route::Route, limits: Option<&Limits>) -> Vec<route::Route> {
    let Some(limits) = limits else { return vec![to_app.clone()] };
    let with = |matching: route::RouteMatch, limit: &HttpLimit| route::Route {
        r#match: Some(matching),
        typed_per_filter_config: HashMap::from([(HTTP_LIMIT.to_owned(), request_limit(limit))]),
        ..to_app.clone()
    };
    let own = limits.routes.iter().map(|(path, limit)| {
        let matching = HttpMatch { path: Some(path.clone()), ..Default::default() };
        // What else the route asks of a request is asked here too.
        let headers = to_app.r#match.iter().flat_map(|base| base.headers.clone()).collect();
        with(route::RouteMatch { headers, ..route_match(Some(&matching)) }, limit)
    });
    let rest = match &limits.requests {
        Some(limit) => with(to_app.r#match.clone().unwrap_or_default(), limit),
        None => to_app.clone(),
    };
    own.chain([rest]).collect()
}

fn request_limit(limit: &HttpLimit) -> Any {
    let always = || {
        Some(core::RuntimeFractionalPercent {
            default_value: Some(types::FractionalPercent {
                numerator: 100,
                denominator: types::fractional_percent::DenominatorType::Hundred.into(),
            }),
            ..Default::default()
        })
    };
    let header = |(name, value): &(String, String)| core::HeaderValueOption {
        header: Some(core::HeaderValue {
            key: name.clone(),
            // Envoy puts variables in place of %NAME%.
            value: value.replace('%', "%%"),
            ..Default::default()
        }),
        append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    any(&http_limit::LocalRateLimit {
        stat_prefix: "limit".to_owned(),
        status: Some(types::HttpStatus { code: i32::from(limit.status) }),
        token_bucket: Some(token_bucket(limit.bucket)),
        filter_enabled: always(),
        filter_enforced: always(),
        response_headers_to_add: limit.headers.iter().map(header).collect(),
        ..Default::default()
    })
}

fn token_bucket(bucket: Bucket) -> types::TokenBucket {
    types::TokenBucket {
        max_tokens: bucket.rate.saturating_add(bucket.burst),
        tokens_per_fill: number(bucket.rate),
        fill_interval: seconds(i64::from(bucket.seconds)),
    }
}
