//! OSM's kinds: what is read, what is refused, and what only shows together.

use mesh::ingest::{EgressProtocol, Part, PolicyPart, Speaks, ingest};
use mesh::{Object, Reason};
use serde_json::{Value, json};

use crate::world::*;

fn part(kind: &str, spec: Value) -> PolicyPart {
    match ingest(&policy(kind, "one", spec)) {
        Ok(Part::Policy(part)) => part,
        other => panic!("{other:?}"),
    }
}

fn refused(object: &Object) -> Option<(Reason, String)> {
    ingest(object).err().map(|problem| (problem.reason, problem.field))
}

/// OSM's own examples (docs, "Egress", "Ingress", "Retries", "Rate limiting"), field by field.
#[test]
fn what_osm_users_wrote_is_read() {
    let PolicyPart::Egress(egress) = part(
        "Egress",
        json!({
            "sources": [{"kind": "ServiceAccount", "name": "curl", "namespace": NS}],
            "hosts": ["httpbin.org", "*.Example.com"],
            "ipAddresses": ["10.1.2.3/8"],
            "ports": [{"number": 80, "protocol": "http"}, {"number": 443, "protocol": "https"},
                      {"number": 3306, "protocol": "tcp-server-first"}],
            "matches": [
                {"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": "egress-routes"},
                {"apiGroup": "policy.openservicemesh.io/v1alpha1", "kind": "UpstreamTrafficSetting", "name": "httpbin"},
            ],
        }),
    ) else {
        panic!()
    };
    assert!(egress.hosts.contains("*.example.com") && egress.ports.contains(&(3306, EgressProtocol::Tcp)));
    assert_eq!(egress.ranges.first().unwrap().to_string(), "10.0.0.0/8");
    assert_eq!((egress.groups.unwrap().len(), egress.settings.as_deref()), (1, Some("httpbin")));
    let PolicyPart::IngressBackend(ingress) = part(
        "IngressBackend",
        json!({
            "backends": [{"name": "httpbin", "port": {"number": 14001, "protocol": "https"},
                          "tls": {"skipClientCertValidation": false, "sniHosts": ["httpbin.shop.svc.cluster.local"]}}],
            "sources": [{"kind": "Service", "namespace": "osm-system", "name": "osm-contour-envoy"},
                        {"kind": "AuthenticatedPrincipal", "name": "osm-contour-envoy.osm-system.cluster.local"}],
        }),
    ) else {
        panic!()
    };
    assert!(
        matches!(&ingress.backends.first().unwrap().speaks, Speaks::Tls { certificate: true, server_names } if server_names.len() == 1)
    );
    let PolicyPart::Retry(retry) = part(
        "Retry",
        json!({
            "source": {"kind": "ServiceAccount", "name": "curl", "namespace": NS},
            "destinations": [{"kind": "Service", "name": "httpbin", "namespace": "httpbin"}],
            "retryPolicy": {"retryOn": "5xx,unavailable", "perTryTimeout": "1s", "numRetries": 5, "retryBackoffBaseInterval": "1.5s"},
        }),
    ) else {
        panic!()
    };
    assert_eq!((retry.rules.retries, retry.rules.backoff.unwrap().as_millis()), (5, 1500));
    for host in ["httpbin", "httpbin.shop", "httpbin.shop.svc", "httpbin.shop.svc.cluster.local"] {
        let PolicyPart::UpstreamTrafficSetting(setting) = part(
            "UpstreamTrafficSetting",
            json!({
                "host": host,
                "connectionSettings": {"tcp": {"maxConnections": 1, "connectTimeout": "2s"},
                    "http": {"maxRequests": 2, "maxRequestsPerConnection": 3, "maxPendingRequests": 4, "maxRetries": 5}},
                "rateLimit": {"local": {"tcp": {"connections": 1, "unit": "minute", "burst": 10},
                    "http": {"requests": 3, "unit": "hour", "responseStatusCode": 503, "responseHeadersToAdd": [{"name": "a", "value": "b%"}]}}},
                "httpRoutes": [{"path": "/status/200", "rateLimit": {"local": {"requests": 1, "unit": "second"}}}],
            }),
        ) else {
            panic!()
        };
        assert_eq!(setting.service.as_deref(), Some("httpbin"), "{host}");
        assert_eq!((setting.callers.most.len(), setting.limits.routes.len()), (5, 1));
        assert_eq!(setting.limits.requests.unwrap().status, 503);
    }
}

#[test]
fn what_can_never_be_right_is_named_by_field() {
    let egress = |change: Value| {
        let mut spec = json!({"sources": [{"kind": "ServiceAccount", "name": "a"}], "hosts": ["a.b"], "ports": [{"number": 80, "protocol": "http"}]});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        policy("Egress", "e", spec)
    };
    let ingress = |backend: Value, sources: Value| {
        policy("IngressBackend", "i", json!({"backends": [backend], "sources": sources}))
    };
    let open = |protocol: &str| json!({"name": "web", "port": {"number": 80, "protocol": protocol}});
    let skip = json!({"name": "web", "port": {"number": 80, "protocol": "https"}, "tls": {"skipClientCertValidation": true}});
    let principal = json!([{"kind": "AuthenticatedPrincipal", "name": "a.b.c"}]);
    let range = json!([{"kind": "IPRange", "name": "10.0.0.0/8"}]);
    let retry = |source: Value, rules: Value| {
        policy(
            "Retry",
            "r",
            json!({"source": source, "destinations": [{"kind": "Service", "name": "b"}], "retryPolicy": rules}),
        )
    };
    let account = json!({"kind": "ServiceAccount", "name": "a"});
    let setting = |change: Value| {
        let mut spec = json!({"host": "web"});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        policy("UpstreamTrafficSetting", "u", spec)
    };
    let limit = |change: Value| {
        let mut http = json!({"requests": 1, "unit": "second"});
        http.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        setting(json!({"rateLimit": {"local": {"http": http}}}))
    };
    let foreign = json!({"kind": "ServiceAccount", "name": "a", "namespace": "other"});
    let table = [
        (egress(json!({"sources": [foreign]})), Reason::ForeignNamespace, "spec.sources[0].namespace"),
        (
            egress(json!({"sources": [{"kind": "User", "name": "a"}]})),
            Reason::UnknownKind,
            "spec.sources[0].kind",
        ),
        (egress(json!({"hosts": ["a|b"]})), Reason::BadAddress, "spec.hosts[0]"),
        (egress(json!({"hosts": ["*"]})), Reason::BadAddress, "spec.hosts[0]"),
        (egress(json!({"ipAddresses": ["10.0.0.0/33"]})), Reason::BadAddress, "spec.ipAddresses[0]"),
        (
            egress(json!({"ports": [{"number": 0, "protocol": "tcp"}]})),
            Reason::BadPort,
            "spec.ports[0].number",
        ),
        (
            egress(json!({"ports": [{"number": 15001, "protocol": "tcp"}]})),
            Reason::BadPort,
            "spec.ports[0].number",
        ),
        (
            egress(json!({"ports": [{"number": 1, "protocol": "grpc"}]})),
            Reason::UnknownKind,
            "spec.ports[0].protocol",
        ),
        (
            egress(json!({"matches": [{"kind": "TCPRoute", "name": "x"}]})),
            Reason::UnknownKind,
            "spec.matches[0].kind",
        ),
        (
            egress(json!({"matches": [{"apiGroup": "x.io/v1", "kind": "HTTPRouteGroup", "name": "x"}]})),
            Reason::UnknownKind,
            "spec.matches[0].apiGroup",
        ),
        (
            egress(
                json!({"matches": [{"kind": "UpstreamTrafficSetting", "name": "x"}, {"kind": "UpstreamTrafficSetting", "name": "y"}]}),
            ),
            Reason::Conflict,
            "spec.matches[1]",
        ),
        (egress(json!({"hosts": vec!["a.b"; 1000]})), Reason::TooLarge, "spec.hosts"),
        // Nobody in particular is not everybody.
        (ingress(open("http"), json!([])), Reason::OpensNothing, "spec.sources"),
        (ingress(open("http"), principal.clone()), Reason::OpensNothing, "spec.sources"),
        (ingress(open("https"), json!([])), Reason::OpensNothing, "spec.sources"),
        (ingress(skip, principal), Reason::OpensNothing, "spec.sources"),
        (ingress(open("udp"), range), Reason::UnknownKind, "spec.backends[0].port.protocol"),
        (
            ingress(open("http"), json!([{"kind": "IPRange", "name": "all"}])),
            Reason::BadAddress,
            "spec.sources[0].name",
        ),
        (
            ingress(open("http"), json!([{"kind": "Pod", "name": "x"}])),
            Reason::UnknownKind,
            "spec.sources[0].kind",
        ),
        (
            ingress(open("https"), json!([{"kind": "AuthenticatedPrincipal", "name": "a\"b"}])),
            Reason::Incomplete,
            "spec.sources[0].name",
        ),
        (retry(foreign, json!({"retryOn": "5xx"})), Reason::ForeignNamespace, "spec.source.namespace"),
        (retry(account.clone(), json!({"retryOn": "often"})), Reason::BadSetting, "spec.retryPolicy.retryOn"),
        (retry(account.clone(), json!({"retryOn": ""})), Reason::BadSetting, "spec.retryPolicy"),
        (
            retry(account.clone(), json!({"retryOn": "5xx", "numRetries": 1000})),
            Reason::BadSetting,
            "spec.retryPolicy",
        ),
        (
            retry(account, json!({"retryOn": "5xx", "perTryTimeout": "1d"})),
            Reason::BadSetting,
            "spec.retryPolicy.perTryTimeout",
        ),
        (setting(json!({"host": "web.other.svc.cluster.local"})), Reason::ForeignNamespace, "spec.host"),
        (setting(json!({"host": "a b"})), Reason::BadAddress, "spec.host"),
        (limit(json!({"requests": 0})), Reason::BadSetting, "spec.rateLimit.local.http"),
        (
            limit(json!({"requests": 4294967295_u32, "burst": 1})),
            Reason::BadSetting,
            "spec.rateLimit.local.http",
        ),
        (
            limit(json!({"responseStatusCode": 499})),
            Reason::BadSetting,
            "spec.rateLimit.local.http.responseStatusCode",
        ),
        (
            limit(json!({"responseHeadersToAdd": [{"name": "a", "value": "x\r\ny: z"}]})),
            Reason::BadSetting,
            "spec.rateLimit.local.http.responseHeadersToAdd",
        ),
        (setting(json!({"httpRoutes": [{"path": "("}]})), Reason::BadRegex, "spec.httpRoutes[0].path"),
        (
            setting(json!({"loadBalancing": {"policy": "ConsistentHash"}})),
            Reason::BadSetting,
            "spec.loadBalancing",
        ),
        (
            setting(json!({"outlierDetection": {"maxEjectionPercent": 101}})),
            Reason::BadSetting,
            "spec.outlierDetection.maxEjectionPercent",
        ),
    ];
    for (object, reason, field) in table {
        assert_eq!(refused(&object), Some((reason, field.to_owned())), "{object:?}");
    }
}

#[test]
fn what_only_shows_together_is_a_problem_and_none_when_all_is_there() {
    let lone = vec![
        policy(
            "Egress",
            "out",
            json!({"sources": [{"kind": "ServiceAccount", "name": "buyer"}], "ports": [{"number": 80, "protocol": "http"}],
                "matches": [{"kind": "HTTPRouteGroup", "name": "gone"}, {"kind": "UpstreamTrafficSetting", "name": "gone"}]}),
        ),
        policy(
            "IngressBackend",
            "in",
            json!({"backends": [{"name": "bookstore", "port": {"number": 80, "protocol": "http"}}, {"name": "gone", "port": {"number": 80, "protocol": "http"}}],
                "sources": [{"kind": "Service", "name": "gateway", "namespace": "ingress"}]}),
        ),
        policy(
            "Retry",
            "again",
            json!({"source": {"kind": "ServiceAccount", "name": "buyer"}, "destinations": [{"kind": "Service", "name": "gone"}],
                "retryPolicy": {"retryOn": "5xx"}}),
        ),
        policy("UpstreamTrafficSetting", "b", json!({"host": "gone"})),
        policy("UpstreamTrafficSetting", "c", json!({"host": "bookstore"})),
        policy("UpstreamTrafficSetting", "d", json!({"host": "bookstore.shop.svc"})),
    ];
    let mesh = mesh(bookstore().into_iter().chain(lone));
    let found: Vec<_> = mesh.problems().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(found.join("\n"));
}
