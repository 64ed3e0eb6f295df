//! Two Envoys as somebody would configure them by hand who wants mutual TLS, one caller let in, and nothing else.

use envoys::{Envoy, Identities, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Path;

/// What the Envoys understand of the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1 at both ends, HTTP/2 between the Envoys, authorization per request.
    Http,
    /// Nothing: bytes, authorization per connection.
    Bytes,
}

/// Starts both.
pub fn start(version: &str, identities: &Identities, app: u16, speaks: Speaks) -> Path {
    let (buyer, store) = (identities.issue("shop", "buyer"), identities.issue("shop", "bookstore"));
    let (inbound, outbound) = (free_port(), free_port());
    let callee = bootstrap(
        &listener(inbound, &callee_filters(speaks), Some(&store)),
        &cluster("app", app, None, speaks),
    );
    let caller = bootstrap(
        &listener(outbound, &caller_filters(speaks), None),
        &cluster("store", inbound, Some(&buyer), speaks),
    );
    let run = |config: Value, port| {
        Envoy::start_with(version, "bootstrap.json", config.to_string().as_bytes(), port)
    };
    let envoys = vec![run(callee, inbound), run(caller, outbound)];
    Path { port: outbound, envoys, _secrets: vec![buyer, store] }
}

fn bootstrap(listener: &Value, cluster: &Value) -> Value {
    json!({
        "node": {"id": "it", "cluster": "it"},
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

fn typed(kind: &str, mut config: Value) -> Value {
    config["@type"] = format!("type.googleapis.com/envoy.{kind}").into();
    config
}

/// Certificate and trust on file, TLS 1.3.
fn tls(folder: &TempDir, alpn: &[&str]) -> Value {
    let secret = |name: &str| {
        let path = folder.path().join(format!("{name}.json"));
        json!({"name": name, "sds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"}})
    };
    json!({
        "alpn_protocols": alpn,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [secret("identity")],
        "validation_context_sds_secret_config": secret("trust"),
    })
}

fn listener(port: u16, filters: &Value, secrets: Option<&TempDir>) -> Value {
    let mut chain = json!({"filters": filters});
    if let Some(folder) = secrets {
        let context = json!({"require_client_certificate": true, "common_tls_context": tls(folder, &["h2"])});
        chain["transport_socket"] = json!({
            "name": "tls",
            "typed_config": typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", context),
        });
    }
    json!({"name": "it", "address": address(port), "filter_chains": [chain]})
}

fn cluster(name: &str, port: u16, secrets: Option<&TempDir>, speaks: Speaks) -> Value {
    let endpoint = json!({"lb_endpoints": [{"endpoint": {"address": address(port)}}]});
    let mut cluster = json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [endpoint]},
    });
    let Some(folder) = secrets else { return cluster };
    let context = json!({"common_tls_context": tls(folder, &["h2"])});
    cluster["transport_socket"] = json!({
        "name": "tls",
        "typed_config": typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext", context),
    });
    if speaks == Speaks::Http {
        let options = json!({"explicit_http_config": {"http2_protocol_options": {}}});
        let kind = "extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"] = json!({format!("envoy.{kind}"): typed(kind, options)});
    }
    cluster
}

fn callee_filters(speaks: Speaks) -> Value {
    let principal =
        json!({"authenticated": {"principal_name": {"exact": "spiffe://cluster.local/ns/shop/sa/buyer"}}});
    let permission = match speaks {
        Speaks::Http => json!({"url_path": {"path": {"prefix": "/books"}}}),
        Speaks::Bytes => json!({"any": true}),
    };
    let rules =
        json!({"rules": {"policies": {"buyer": {"permissions": [permission], "principals": [principal]}}}});
    match speaks {
        Speaks::Http => {
            let rbac =
                json!({"name": "rbac", "typed_config": typed("extensions.filters.http.rbac.v3.RBAC", rules)});
            json!([manager("app", &[rbac])])
        }
        Speaks::Bytes => {
            let mut rules = rules;
            rules["stat_prefix"] = "rbac".into();
            let config = typed("extensions.filters.network.rbac.v3.RBAC", rules);
            json!([{"name": "rbac", "typed_config": config}, bytes("app")])
        }
    }
}

fn caller_filters(speaks: Speaks) -> Value {
    match speaks {
        Speaks::Http => json!([manager("store", &[])]),
        Speaks::Bytes => json!([bytes("store")]),
    }
}

fn bytes(cluster: &str) -> Value {
    let config = json!({"stat_prefix": "it", "cluster": cluster});
    json!({"name": "tcp", "typed_config": typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", config)})
}

fn manager(cluster: &str, filters: &[Value]) -> Value {
    let router = json!({"name": "router", "typed_config": typed("extensions.filters.http.router.v3.Router", json!({}))});
    let filters: Vec<_> = filters.iter().chain([&router]).collect();
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster}});
    let config = json!({
        "stat_prefix": "it", "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "it", "domains": ["*"], "routes": [route]}]},
    });
    let kind = "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    json!({"name": "http", "typed_config": typed(kind, config)})
}
