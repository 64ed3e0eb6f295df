//! Envoy's bootstrap as JSON. Pure: environment in, value out; a golden file holds it, and the tests let the oldest
//! and the newest supported Envoy validate it.
//!
//! It holds only what must be known before the controller answers: who this is, where the controller is, the
//! admin interface, the Prometheus listener and which statistics to keep. All else comes over ADS.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::constants::PROMETHEUS_PORT;
use crate::environment::{Controller, Environment};
use crate::envoy::{HotRestart, admin_path};
use crate::sds;
use crate::swap::gate;
use crate::swap::shared::retired_path;

const MAX_CONNECTIONS: u32 = 50_000;
/// The resource that is used up when another Envoy has taken over.
const RETIRED: &str = "envoy.resource_monitors.injected_resource";
/// How long a connection of a retired Envoy may be idle. Short against the shortest drain (11 s).
const RETIRED_IDLE: &str = "2s";

/// The bootstrap of the sidecar that this environment describes; secrets lie below `run`. `restart` where Envoys take
/// over from each other.
#[must_use]
pub fn render(environment: &Environment, run: &Path, restart: Option<HotRestart>) -> Value {
    let mut bootstrap = alone(environment, run);
    if let Some(restart) = restart {
        slotted(&mut bootstrap, run, restart);
    }
    bootstrap
}

/// What differs where an Envoy may take over from another one: it waits for its configuration for as long as it takes,
/// and for the gate; it shares one socket with the other; and it lets its connections go when it is retired.
fn slotted(bootstrap: &mut Value, run: &Path, restart: HotRestart) {
    for source in ["cds_config", "lds_config"] {
        bootstrap["dynamic_resources"][source]["initial_fetch_timeout"] = "0s".into();
    }
    let (cluster, listener) = gate::bootstrap(restart.slot);
    let resources = &mut bootstrap["static_resources"];
    resources["listeners"][0]["enable_reuse_port"] = false.into();
    for (kind, resource) in [("clusters", cluster), ("listeners", listener)] {
        if let Some(list) = resources[kind].as_array_mut() {
            list.push(resource);
        }
    }
    let overload = &mut bootstrap["overload_manager"];
    if let Some(list) = overload["resource_monitors"].as_array_mut() {
        list.push(json!({ "name": RETIRED, "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
            "filename": retired_path(run, restart.epoch),
        } }));
    }
    overload["actions"] = retired_actions();
}

/// A retired Envoy says goodbye on connections that are idle for a while (Envoy, "Overload manager"). Its drain says it
/// only where an answer begins; on an idle connection something might begin just before the Envoy ends, and end with it.
fn retired_actions() -> Value {
    json!([{
        "name": "envoy.overload_actions.reduce_timeouts",
        "triggers": [{ "name": RETIRED, "threshold": { "value": 1 } }],
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.overload.v3.ScaleTimersOverloadActionConfig",
            "timer_scale_factors": [
                { "timer": "HTTP_DOWNSTREAM_CONNECTION_IDLE", "min_timeout": RETIRED_IDLE },
            ],
        },
    }])
}

fn alone(environment: &Environment, run: &Path) -> Value {
    json!({
        "node": node(environment),
        "admin": { "address": admin(run) },
        "dynamic_resources": dynamic_resources(),
        "static_resources": {
            "clusters": [controller_cluster(&environment.controller, run), admin_cluster(run)],
            "listeners": [prometheus_listener(environment.pod_ip)],
        },
        "stats_config": { "stats_matcher": { "inclusion_list": { "patterns": kept_stats() } } },
        // 4.3 times faster start at 1,000 clusters: most clusters of a mesh are never called by a given pod.
        "deferred_stat_options": { "enable_deferred_creation_stats": true },
        "overload_manager": overload_manager(),
        "layered_runtime": { "layers": [{ "name": "meshwright", "static_layer": {
            // By default Envoy refuses a whole route for an expression of more than 100 RE2 instructions, such as
            // `/[a-z]{200}`. The controller bounds what it accepts of policies (ARCHITECTURE, bootstrap).
            "re2.max_program_size.error_level": 32768,
        } }] },
    })
}

fn node(environment: &Environment) -> Value {
    let workload = &environment.workload;
    json!({
        "id": format!("{}.{}", workload.pod, workload.namespace),
        "cluster": format!("{}.{}", workload.service_account, workload.namespace),
        "metadata": { "pod_uid": workload.uid, "revision": workload.revision },
    })
}

fn dynamic_resources() -> Value {
    let over_ads = json!({ "ads": {}, "resource_api_version": "V3" });
    json!({
        "cds_config": over_ads,
        "lds_config": over_ads,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{ "envoy_grpc": {
                "cluster_name": "controller",
                "retry_policy": { "retry_back_off": { "base_interval": "0.25s", "max_interval": "5s" } },
            } }],
        },
    })
}

fn controller_cluster(controller: &Controller, run: &Path) -> Value {
    json!({
        "name": "controller",
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "controller",
            "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": socket(&controller.host, controller.port) } }] }],
        },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {
                // A controller whose node vanished sends no FIN; only a ping finds that out.
                "connection_keepalive": { "interval": "10s", "timeout": "5s" },
            } },
        } },
        "transport_socket": { "name": "envoy.transport_sockets.tls", "typed_config": controller_tls(controller, run) },
    })
}

fn controller_tls(controller: &Controller, run: &Path) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": controller.host,
        "common_tls_context": {
            "tls_params": { "tls_minimum_protocol_version": "TLSv1_2" },
            "alpn_protocols": ["h2"],
            "tls_certificate_sds_secret_configs": [sds_secret("identity", &sds::identity_path(run), run)],
            "combined_validation_context": {
                "default_validation_context": { "match_typed_subject_alt_names": [
                    { "san_type": "DNS", "matcher": { "exact": controller.host } },
                ] },
                "validation_context_sds_secret_config": sds_secret("trust", &sds::trust_path(run), run),
            },
        },
    })
}

fn sds_secret(name: &str, path: &Path, run: &Path) -> Value {
    json!({ "name": name, "sds_config": {
        "resource_api_version": "V3",
        "path_config_source": { "path": path, "watched_directory": { "path": sds::directory(run) } },
    } })
}

/// Not a port: whoever can ask the admin interface can stop Envoy or empty its listeners, and every container of the pod
/// shares its loopback network. The socket is the sidecar's user's alone, in a directory that no other container has.
fn admin(run: &Path) -> Value {
    json!({ "pipe": { "path": admin_path(run), "mode": 0o600 } })
}

fn admin_cluster(run: &Path) -> Value {
    json!({
        "name": "admin",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "admin",
            "endpoints": [{ "lb_endpoints": [
                { "endpoint": { "address": { "pipe": { "path": admin_path(run) } } } },
            ] }],
        },
    })
}

/// Of the admin interface, only the metrics leave the pod.
fn prometheus_listener(pod_ip: IpAddr) -> Value {
    let any = if pod_ip.is_ipv4() { "0.0.0.0" } else { "::" };
    json!({
        "name": "prometheus",
        "address": socket(any, PROMETHEUS_PORT),
        "ignore_global_conn_limit": true,
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": "prometheus",
                "route_config": { "name": "prometheus", "virtual_hosts": [{
                    "name": "prometheus",
                    "domains": ["*"],
                    "routes": [{
                        "match": { "path": "/stats/prometheus", "headers": [
                            { "name": ":method", "string_match": { "exact": "GET" } },
                        ] },
                        "route": { "cluster": "admin" },
                    }],
                }] },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    })
}

/// What readiness, drain, metrics and rollout gates read. All other statistics cost memory in every sidecar.
fn kept_stats() -> Vec<Value> {
    let whole =
        ["cluster_manager.", "listener_manager.", "control_plane.", "server.", "listener.", "overload."]
            .map(|prefix| json!({ "prefix": prefix }));
    let http = ["downstream_rq", "downstream_cx_active", "downstream_cx_total", ".rbac."]
        .map(|part| json!({ "safe_regex": { "regex": format!("http\\..*{}.*", part.replace('.', "\\.")) } }));
    let cluster = [
        "upstream_rq_(total|active|[0-9]+xx|timeout|retry|time|pending_overflow)",
        "upstream_cx_(total|active|connect_fail)",
        "membership_(total|healthy)",
        "ssl\\.(handshake|fail_verify.*|connection_error)",
        "update_(success|rejected|failure)",
    ]
    .map(|part| json!({ "safe_regex": { "regex": format!("cluster\\..*\\.{part}") } }));
    let tcp = json!({ "safe_regex": { "regex": "tcp\\..*\\.(downstream_cx_total|rbac\\..*)" } });
    // Which secrets are in use: a rotation of the root waits for it.
    let secrets = json!({ "safe_regex": { "regex": "sds\\.(trust|identity)\\.version_text" } });
    whole.into_iter().chain(http).chain(cluster).chain([tcp, secrets]).collect()
}

fn overload_manager() -> Value {
    json!({ "resource_monitors": [{
        "name": "envoy.resource_monitors.global_downstream_max_connections",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": MAX_CONNECTIONS,
        },
    }] })
}

fn socket(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}
