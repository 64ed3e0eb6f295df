//! Real Envoys, the oldest and the newest that we support: they accept what is rendered, and they decide as `decide`
//! does.

mod apps;
mod audit;
mod balance;
mod dual;
mod edges;
mod egress;
mod endpoints;
mod grpc;
mod ingress;
mod live;
mod matrix;
mod modes;
mod outside;
mod protocols;
mod revoked;
mod splits;
mod strangers;
mod undelivered;
mod upstream;

use crds::mesh_config::{AccessLog, Authorization, Egress, Mtls};
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::r#type::matcher::v3 as matcher;
use envoys::{Config, Identities, VERSIONS, validate};
use mesh::Settings;
use mesh::ingest::Pattern;
use serde_json::json;

use crate::world::*;

/// Every kind of port, split and mode.
fn objects() -> Vec<mesh::Object> {
    let more = vec![
        policy(
            "TrafficSplit",
            "testers",
            json!({
                "service": "bookstore", "backends": [{"service": "bookstore-v2", "weight": 1}],
                "matches": [{"kind": "HTTPRouteGroup", "name": "books"}],
            }),
        ),
        policy(
            "TrafficSplit",
            "db",
            json!({
                "service": "warehouse", "backends": [{"service": "warehouse", "weight": 3}, {"service": "replica", "weight": 1}],
            }),
        ),
        service("replica", "fd00::1", json!({"app": "warehouse"}), &[("tcp", 5432, json!(5432))]),
        slice("replica", &[("tcp", 5432)], &[("warehouse-1", "10.1.0.3", true)]),
        service("api", "10.0.0.20", json!({"app": "bookstore"}), &[("grpc-api", 50051, json!(50051))]),
        target(
            "everybody",
            "bookstore",
            &["buyer", "thief"],
            json!([{"kind": "HTTPRouteGroup", "name": "books", "matches": ["buy"]}]),
        ),
    ];
    bookstore().into_iter().chain(more).collect()
}

#[test]
fn every_version_accepts_what_is_rendered() {
    let identities = Identities::new();
    let folder = identities.issue("shop", "any");
    let modes = [
        (Mtls::Strict, Authorization::Enforce, Egress::Deny, AccessLog::Json),
        (Mtls::Permissive, Authorization::Audit, Egress::Allow, AccessLog::Off),
        (Mtls::Permissive, Authorization::AllowAll, Egress::Deny, AccessLog::Json),
    ];
    for (mtls, authorization, egress, access_log) in modes {
        let settings = Settings { access_log, ..settings_with(mtls, authorization, egress) };
        let mesh = mesh_of(settings, objects());
        for pod in ["buyer-1", "v1", "warehouse-1"] {
            let view = mesh::view(&mesh, &mesh.audience(NS, pod).unwrap());
            let snapshot = mesh::render::render_with(&view, folder.path().to_str().unwrap());
            for version in VERSIONS {
                // As it is, over ADS; and with routes and endpoints written in, so that they are looked at too.
                validate(version, &Config::of(&snapshot).bootstrap());
                validate(version, &Config::of(&snapshot).inlined(&snapshot).bootstrap());
            }
        }
    }
}

#[test]
fn every_version_accepts_the_expressions_that_ingest_accepts() {
    let expressions = [
        "/a",
        ".*",
        "/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/[^/]+/.*",
        "[a-z]{1000}",
        ".{250}",
        r"\pL{30}",
        r"[\w.-]+@\w+",
        r"(?i)/books(\?.*)?",
        "(a|b|c){100}",
        r"\x41\x{42}\n\t",
        "[[:alpha:]]+",
        r"\bword\b",
        "",
        "a{5000}",
        "(?<n>x)",
        r"(?:a|bc)*?d+?",
        r"[^\d\s]",
        r"\D\S\W",
        "^/x$",
        "é+",
        r"[a\]b]",
        "a**",
        "[a&&b]",
        "x{,3}",
        r"\/a\-b\.c",
        "(((((a{2}){5}){5}){5}){4})",
        "\\",
        "[z-a]",
        r"\Qa\E",
        r"\C",
        r"\p{Lu}\PN",
        r"(?s).",
        r"(?U)a+",
        r"(?m)^a$",
    ];
    let accepted: Vec<_> = expressions.into_iter().filter(|text| Pattern::new(text).is_ok()).collect();
    assert!(accepted.len() > 20 && accepted.len() < expressions.len() - 5, "{}", accepted.len());
    let routes = accepted.iter().map(|text| route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(matcher::RegexMatcher {
                regex: (*text).to_owned(),
                ..Default::default()
            })),
            ..Default::default()
        }),
        action: Some(route::route::Action::DirectResponse(route::DirectResponseAction {
            status: 200,
            body: None,
            body_format: None,
        })),
        ..Default::default()
    });
    let config = Config::of_routes(routes.collect());
    for version in VERSIONS {
        validate(version, &config.bootstrap());
    }
}
