//! How upstreams are called: limits, timeouts, retries, outliers, choice of endpoints.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::upstream_traffic_setting::LoadBalancingPolicy;
use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::google::protobuf;
use prost::Message;

use super::wire::{any, number};
use crate::ingest::{CallerSettings, Hashed, Limited, Outliers, RetryRules, Timed};
use crate::view::Handling;

/// Key of the options in a cluster.
pub(super) const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

pub(super) fn duration(given: Duration) -> Option<protobuf::Duration> {
    let nanos = i32::try_from(given.subsec_nanos()).unwrap_or(0);
    Some(protobuf::Duration { seconds: i64::try_from(given.as_secs()).unwrap_or(i64::MAX), nanos })
}

/// Applies a caller's settings to a cluster.
pub(super) fn settle(cluster: &mut cluster::Cluster, settings: &CallerSettings) {
    let most = |what| settings.most.get(&what).copied().and_then(number);
    for threshold in cluster.circuit_breakers.iter_mut().flat_map(|limits| &mut limits.thresholds) {
        let limits = [
            (&mut threshold.max_connections, Limited::Connections),
            (&mut threshold.max_requests, Limited::Requests),
            (&mut threshold.max_pending_requests, Limited::Pending),
            (&mut threshold.max_retries, Limited::Retries),
        ];
        for (field, what) in limits {
            *field = most(what).or(*field);
        }
    }
    if let Some(most) = most(Limited::RequestsPerConnection) {
        per_connection(cluster, most);
    }
    if let Some(timeout) = settings.timeouts.get(&Timed::Connect) {
        cluster.connect_timeout = duration(*timeout);
    }
    cluster.outlier_detection = settings.outliers.as_ref().map(outliers);
    if let Some(balance) = &settings.balance
        && cluster.lb_policy() != cluster::cluster::LbPolicy::ClusterProvided
    {
        use cluster::cluster::LbPolicy;
        cluster.lb_policy = match balance.policy {
            LoadBalancingPolicy::LeastRequest => LbPolicy::LeastRequest,
            LoadBalancingPolicy::RoundRobin => LbPolicy::RoundRobin,
            LoadBalancingPolicy::Random => LbPolicy::Random,
            LoadBalancingPolicy::ConsistentHash => LbPolicy::RingHash,
        }
        .into();
    }
}

/// Only clusters that speak HTTP have the options; for others the limit means nothing.
fn per_connection(cluster: &mut cluster::Cluster, most: protobuf::UInt32Value) {
    let Some(options) = cluster.typed_extension_protocol_options.get_mut(HTTP_OPTIONS) else { return };
    let Ok(mut message) = HttpProtocolOptions::decode(options.value.as_slice()) else { return };
    let common = message.common_http_protocol_options.get_or_insert_default();
    common.max_requests_per_connection = Some(most);
    *options = any(&message);
}

/// Failures in a row only: Envoy's statistical detections need many pods and much traffic, and surprise with few.
fn outliers(outliers: &Outliers) -> cluster::OutlierDetection {
    let enforced = if outliers.errors == 0 { 0 } else { 100 };
    cluster::OutlierDetection {
        consecutive_5xx: number(outliers.errors.max(1)),
        enforcing_consecutive_5xx: number(enforced),
        enforcing_consecutive_gateway_failure: number(0),
        enforcing_success_rate: number(0),
        enforcing_failure_percentage: number(0),
        interval: duration(outliers.interval),
        base_ejection_time: duration(outliers.ejection),
        // Not below the base, which Envoy refuses.
        max_ejection_time: duration(outliers.ejection.max(Duration::from_secs(300))),
        max_ejection_percent: number(outliers.most_percent),
        ..Default::default()
    }
}

/// Applies what is said of requests to the routes of a service.
pub(super) fn handle(routes: &mut [route::Route], handling: &Handling) {
    for one in routes {
        let Some(route::route::Action::Route(action)) = &mut one.action else { continue };
        if let Some(timeout) = handling.timeouts.get(&Timed::Request) {
            action.timeout = duration(*timeout);
        }
        if let Some(timeout) = handling.timeouts.get(&Timed::HttpIdle) {
            action.idle_timeout = duration(*timeout);
        }
        if let Some(rules) = &handling.retry {
            retry(action.retry_policy.get_or_insert_default(), rules);
        }
        action.hash_policy = handling.hash.iter().map(hash).collect();
    }
}

/// What is safe to try again stays so, unless no retry is wanted at all.
fn retry(policy: &mut route::RetryPolicy, rules: &RetryRules) {
    let safe = policy.retry_on.split(',').filter(|one| !one.is_empty()).map(str::to_owned);
    let on: BTreeSet<String> = rules.on.iter().cloned().chain(safe).collect();
    policy.retry_on = on.into_iter().collect::<Vec<_>>().join(",");
    policy.num_retries = number(rules.retries);
    policy.per_try_timeout = rules.per_try.and_then(duration);
    policy.retry_back_off = rules.backoff.map(|pause| route::retry_policy::RetryBackOff {
        base_interval: duration(pause),
        max_interval: duration(pause.saturating_mul(10)),
    });
}

fn hash(hashed: &Hashed) -> route::route_action::HashPolicy {
    use route::route_action::hash_policy::{Cookie, Header, PolicySpecifier};
    let specifier = match hashed {
        Hashed::Header(name) => {
            PolicySpecifier::Header(Header { header_name: name.clone(), ..Default::default() })
        }
        // A caller without the cookie gets one for its session.
        Hashed::Cookie(name) => PolicySpecifier::Cookie(Cookie {
            name: name.clone(),
            ttl: duration(Duration::ZERO),
            path: "/".to_owned(),
            ..Default::default()
        }),
    };
    route::route_action::HashPolicy { policy_specifier: Some(specifier), ..Default::default() }
}

/// Applies what is said of connections to the filter that passes them on.
pub(super) fn handle_connections(filter: &mut listener::Filter, handling: &Handling) {
    let Some(timeout) = handling.timeouts.get(&Timed::TcpIdle) else { return };
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &mut filter.config_type else { return };
    if let Ok(mut proxy) = TcpProxy::decode(config.value.as_slice())
        && config.type_url == any(&TcpProxy::default()).type_url
    {
        proxy.idle_timeout = duration(*timeout);
        *config = any(&proxy);
    }
}

/// HTTP in the version that the application speaks.
pub(super) fn as_spoken() -> protobuf::Any {
    use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options as options;
    let config = options::UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(super::http::http2_upstream()),
        ..Default::default()
    };
    any(&HttpProtocolOptions {
        upstream_protocol_options: Some(options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
            config,
        )),
        ..Default::default()
    })
}
