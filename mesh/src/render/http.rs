//! Connection managers and the matching of requests.

use envoy_types::pb::envoy::config::accesslog::v3 as accesslog;
use envoy_types::pb::envoy::config::common::mutation_rules::v3 as mutation_rules;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3 as header_mutation;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoy_types::pb::google::protobuf::Any;

use super::Context;
use super::log::{Of, access_log};
use super::wire::{self, any, number, seconds, yes};
use crate::ingest::HttpMatch;

/// Name of the filter by which per-route configuration refers to it.
pub(super) const RBAC: &str = "envoy.filters.http.rbac";

/// Header by which a server's sidecar tells the caller's that the application cannot have seen the request: its
/// connection was refused. That happens when a pod ends and a caller has not heard of it yet. The caller's sidecar
/// then asks another pod, whatever the method. It never leaves the mesh: neither application sees it or can set it.
pub(super) const UNDELIVERED: &str = "x-meshwright-undelivered";

/// How long a caller may take for the headers of a request once it has begun: longer than any network takes, and not so
/// long that many who send a byte a minute fill a server.
const HEADERS_SECONDS: i64 = 60;

/// Headers by which a request can tell Envoy's router how to treat it (router filter): how long, how often, how. Whoever
/// calls a server does not decide that for the server's sidecar. An application may tell its own.
const TOLD: [&str; 13] = [
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
];

/// A filter that takes headers out of requests.
fn without(headers: &[&str]) -> hcm::HttpFilter {
    use mutation_rules::header_mutation::Action;
    let remove =
        |name: &&str| mutation_rules::HeaderMutation { action: Some(Action::Remove((*name).to_owned())) };
    let mutations = header_mutation::Mutations {
        request_mutations: headers.iter().map(remove).collect(),
        ..Default::default()
    };
    let config = header_mutation::HeaderMutation { mutations: Some(mutations), ..Default::default() };
    filter("envoy.filters.http.header_mutation", any(&config))
}

/// What an application that does not tell `-` and `_` apart (RFC 3875, 4.1.18: CGI, and WSGI and PHP after it) takes for
/// the header that names its caller. That header is ours alone to write. Other names with `_` pass: gRPC metadata is
/// full of them.
pub(super) const LIKE_CALLER: [&str; 7] = [
    "x_forwarded_client_cert",
    "x_forwarded_client-cert",
    "x_forwarded-client_cert",
    "x_forwarded-client-cert",
    "x-forwarded_client_cert",
    "x-forwarded_client-cert",
    "x-forwarded-client_cert",
];

/// A connection manager that is transparent to applications: no time limits of its own, no header that the
/// application did not write changed (except the caller's identity), websockets pass.
pub(super) fn manager(
    context: Context<'_>,
    stat_prefix: &str,
    route_name: &str,
    authorization: Option<Any>,
) -> hcm::HttpConnectionManager {
    let authorization = authorization.map(|config| filter(RBAC, config));
    let router = Router { suppress_envoy_headers: true, ..Default::default() };
    let router = filter("envoy.filters.http.router", any(&router));
    hcm::HttpConnectionManager {
        codec_type: hcm::http_connection_manager::CodecType::Auto.into(),
        stat_prefix: stat_prefix.to_owned(),
        http_filters: authorization.into_iter().chain([router]).collect(),
        http_protocol_options: Some(core::Http1ProtocolOptions {
            accept_http_10: true,
            ..Default::default()
        }),
        http2_protocol_options: Some(http2()),
        server_header_transformation: hcm::http_connection_manager::ServerHeaderTransformation::PassThrough
            .into(),
        stream_idle_timeout: seconds(0),
        access_log: access_log(context, Of::Requests).into_iter().collect(),
        upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            config_source: Some(wire::routes()),
            route_config_name: route_name.to_owned(),
        })),
        ..Default::default()
    }
}

/// Lets rules see a path as whoever gets it may read it.
pub(super) fn resolve_paths(manager: &mut hcm::HttpConnectionManager) {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction;
    manager.normalize_path = yes();
    // `%2F` and `%5C` let a path look harmless to a rule and not to an application.
    manager.path_with_escaped_slashes_action = PathWithEscapedSlashesAction::RejectRequest.into();
}

/// Makes a connection manager the one in front of the application: it says who calls, and it resolves `.` and `..`
/// in the path before rules are asked, since the application may do so after. Slashes in a row stay as they are (a path may
/// hold a URL, or a key that is signed), and no rule for paths fits them. It says when the application could not
/// be reached.
pub(super) fn guard(manager: &mut hcm::HttpConnectionManager) {
    use hcm::http_connection_manager::{ForwardClientCertDetails, SetCurrentClientCertDetails};
    resolve_paths(manager);
    manager.request_headers_timeout = seconds(HEADERS_SECONDS);
    manager.http_filters.insert(0, without(&TOLD));
    manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
    manager.set_current_client_cert_details =
        Some(SetCurrentClientCertDetails { uri: true, ..Default::default() });
    manager.local_reply_config =
        Some(hcm::LocalReplyConfig { mappers: vec![undelivered()], ..Default::default() });
}

/// Marks answers that Envoy makes because it could not connect (response flag `UF`).
fn undelivered() -> hcm::ResponseMapper {
    let refused = accesslog::ResponseFlagFilter { flags: vec!["UF".to_owned()] };
    let header =
        core::HeaderValue { key: UNDELIVERED.to_owned(), value: "true".to_owned(), ..Default::default() };
    hcm::ResponseMapper {
        filter: Some(accesslog::AccessLogFilter {
            filter_specifier: Some(accesslog::access_log_filter::FilterSpecifier::ResponseFlagFilter(
                refused,
            )),
        }),
        headers_to_add: vec![core::HeaderValueOption { header: Some(header), ..Default::default() }],
        ..Default::default()
    }
}

pub(super) fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

pub(super) fn manager_filter(manager: &hcm::HttpConnectionManager) -> listener::Filter {
    network_filter("envoy.filters.network.http_connection_manager", any(manager))
}

pub(super) fn filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// Websockets cross HTTP/2 as extended CONNECT (RFC 8441), which must be allowed on both sides.
pub(super) fn http2() -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions { allow_connect: true, ..Default::default() }
}

/// Towards servers. Envoy ends an HTTP/2 connection, and every stream on it, at the second empty DATA frame in a row
/// (its protection against CVE-2019-9518). A server may well send some: one per stream that ends, when two end together.
pub(super) fn http2_upstream() -> core::Http2ProtocolOptions {
    core::Http2ProtocolOptions {
        max_consecutive_inbound_frames_with_empty_payload: number(1 << 20),
        ..http2()
    }
}

pub(super) fn regex(text: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher { regex: text.to_owned(), ..Default::default() }
}

/// Methods and headers of a match. A header that is missing fits nothing.
pub(super) fn header_matchers(one: &HttpMatch) -> Vec<route::HeaderMatcher> {
    let methods = one.methods.iter().map(String::as_str).collect::<Vec<_>>().join("|");
    let method = (!methods.is_empty()).then(|| header_matcher(":method", &methods));
    let headers = one.headers.iter().map(|(name, text)| header_matcher(name, text));
    method.into_iter().chain(headers).collect()
}

/// A path that is not ambiguous (see [`HttpMatch::AMBIGUOUS`]).
pub(super) fn clear_path() -> route::HeaderMatcher {
    let ambiguous = format!("[^?#]*{}.*", HttpMatch::AMBIGUOUS);
    route::HeaderMatcher { invert_match: true, ..header_matcher(":path", &ambiguous) }
}

pub(super) fn header_matcher(name: &str, text: &str) -> route::HeaderMatcher {
    let value = matcher::StringMatcher {
        match_pattern: Some(matcher::string_matcher::MatchPattern::SafeRegex(regex(text))),
        ..Default::default()
    };
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(value)),
        ..Default::default()
    }
}

/// Requests that fit a match; every request when there is none. The empty prefix also fits `*`, the path of a
/// server-wide OPTIONS.
pub(super) fn route_match(one: Option<&HttpMatch>) -> route::RouteMatch {
    let path = match one.and_then(|one| one.path.as_ref()) {
        Some(text) => route::route_match::PathSpecifier::SafeRegex(regex(text)),
        None => route::route_match::PathSpecifier::Prefix(String::new()),
    };
    route::RouteMatch {
        headers: one.map(header_matchers).unwrap_or_default(),
        path_specifier: Some(path),
        ..Default::default()
    }
}

/// A route configuration for every host.
pub(super) fn routes(name: &str, routes: Vec<route::Route>) -> route::RouteConfiguration {
    let host = route::VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes,
        ..Default::default()
    };
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![host],
        response_headers_to_remove: vec![UNDELIVERED.to_owned()],
        ..Default::default()
    }
}
