//! What an Envoy that holds something lets through, read out of the bytes that it was sent.

use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::Message;

use super::*;

pub(super) fn read(body: &Bytes) -> Wire {
    Wire::decode(body.clone()).unwrap()
}

pub(super) fn take(response: &DeltaResponse, holds: &mut Holds) {
    let kind = ResourceType::from_type_url(&response.type_url).unwrap();
    for body in &response.resources {
        let wire = read(body);
        holds.insert((kind, wire.name), (wire.version, wire.resource.unwrap().value.into()));
    }
    for name in &response.removed_resources {
        holds.remove(&(kind, name.clone()));
    }
}

/// Whether an Envoy that holds this lets a call to port 8080 through to its application.
pub(super) fn lets_through(holds: &Holds, caller: &str, method: &str) -> bool {
    let Some((_, bytes)) = holds.get(&(Listener, "inbound".to_owned())) else { return false };
    let listener = listener::Listener::decode(bytes.clone()).unwrap();
    let open = listener.filter_chains.iter().any(|chain| {
        let port = chain.filter_chain_match.as_ref().and_then(|matching| matching.destination_port);
        port.is_some_and(|port| port.value == 8080) && !chain.filters.is_empty()
    });
    let Some((_, bytes)) = holds.get(&(Route, "in|8080".to_owned())).filter(|_| open) else { return false };
    let config = route::RouteConfiguration::decode(bytes.clone()).unwrap();
    let per_route = &config.virtual_hosts[0].typed_per_filter_config["envoy.filters.http.rbac"];
    match RbacPerRoute::decode(per_route.value.as_slice()).unwrap().rbac.and_then(|rbac| rbac.rules) {
        None => true,
        Some(rules) => rules.policies.values().any(|policy| {
            policy.principals.iter().any(|one| is(one, caller))
                && policy.permissions.iter().any(|one| fits(one, method))
        }),
    }
}

/// Whether an Envoy that holds this lets its application call a host outside the mesh: with TLS, or a request of a method.
pub(super) fn lets_out(holds: &Holds, host: &str, method: Option<&str>) -> bool {
    let port = if method.is_some() { 80 } else { 443 };
    let Some((_, bytes)) = holds.get(&(Listener, format!("egress|{port}"))) else { return false };
    let listener = listener::Listener::decode(bytes.clone()).unwrap();
    let fits = |chain: &&listener::FilterChain| {
        let matching = chain.filter_chain_match.clone().unwrap_or_default();
        assert!(matching.prefix_ranges.is_empty(), "not foreseen: {matching:?}");
        let http = matching.application_protocols.iter().any(|protocol| protocol == "http/1.1");
        let named = matching.server_names.iter().any(|name| name == host);
        match matching.transport_protocol.as_str() {
            "tls" => method.is_none() && (matching.server_names.is_empty() || named),
            "raw_buffer" => method.is_some() && (matching.application_protocols.is_empty() || http),
            _ => true,
        }
    };
    // The most special one counts.
    let special = |chain: &&listener::FilterChain| {
        let matching = chain.filter_chain_match.clone().unwrap_or_default();
        (
            !matching.server_names.is_empty(),
            !matching.transport_protocol.is_empty(),
            matching.application_protocols.len(),
        )
    };
    let chain = listener.filter_chains.iter().filter(fits).max_by_key(special);
    let chain = chain.or(listener.default_filter_chain.as_ref()).unwrap();
    let filter = &chain.filters[0];
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &filter.config_type else {
        panic!("{filter:?}")
    };
    let cluster = match filter.name.as_str() {
        "envoy.filters.network.tcp_proxy" => {
            match tcp::TcpProxy::decode(config.value.as_slice()).unwrap().cluster_specifier {
                Some(tcp::tcp_proxy::ClusterSpecifier::Cluster(cluster)) => Some(cluster),
                other => panic!("not foreseen: {other:?}"),
            }
        }
        _ => routed(holds, chain.name.trim_end_matches("|http"), host, method.unwrap()),
    };
    cluster.is_some_and(|name| name.starts_with("egress|") && holds.contains_key(&(Cluster, name)))
}

/// Where a request goes.
fn routed(holds: &Holds, name: &str, host: &str, method: &str) -> Option<String> {
    let (_, bytes) = holds.get(&(Route, name.to_owned()))?;
    let config = route::RouteConfiguration::decode(bytes.clone()).unwrap();
    let of =
        |name: &str| config.virtual_hosts.iter().find(|one| one.domains.iter().any(|domain| domain == name));
    let fits = |one: &&route::Route| {
        // Every path in this world is a clear one.
        let headers = one.r#match.iter().flat_map(|matching| &matching.headers);
        headers.into_iter().filter(|header| header.name == ":method").all(|header| says(header, method))
    };
    match of(host).or_else(|| of("*"))?.routes.iter().find(fits)?.action.as_ref()? {
        route::route::Action::Route(route::RouteAction {
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(cluster)),
            ..
        }) => Some(cluster.clone()),
        route::route::Action::DirectResponse(_) => None,
        other => panic!("not foreseen: {other:?}"),
    }
}

/// Whether a matcher of methods, `GET` or every one, fits.
fn says(header: &route::HeaderMatcher, method: &str) -> bool {
    let text = format!("{header:?}");
    text.contains(method) || !METHODS.iter().any(|one| text.contains(one))
}

fn is(principal: &rbac::Principal, caller: &str) -> bool {
    let Some(rbac::principal::Identifier::Authenticated(peer)) = &principal.identifier else {
        panic!("not foreseen: {principal:?}")
    };
    match peer.principal_name.as_ref().and_then(|name| name.match_pattern.as_ref()) {
        Some(MatchPattern::Exact(id)) => *id == format!("spiffe://cluster.local/ns/shop/sa/{caller}"),
        other => panic!("not foreseen: {other:?}"),
    }
}

fn fits(permission: &rbac::Permission, method: &str) -> bool {
    use rbac::permission::Rule;
    match permission.rule.as_ref().unwrap() {
        Rule::Any(any) => *any,
        // Every path in this world.
        Rule::UrlPath(_) => true,
        Rule::AndRules(all) => all.rules.iter().all(|one| fits(one, method)),
        Rule::Header(header) if header.name == ":method" => says(header, method),
        other => panic!("not foreseen: {other:?}"),
    }
}
