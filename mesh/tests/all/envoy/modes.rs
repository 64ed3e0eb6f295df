//! MeshPolicies at every level, between real Envoys: the most specific one decides, about each mode by itself.

use crds::mesh_config::Authorization;
use envoys::VERSIONS;
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Object, Verdict, decide};
use serde_json::{Value, json};

use super::apps::{app, ask};
use super::protocols::{Declared, Pair, requests_only, settings_of};
use crate::world::*;

/// The namespace of the control plane.
const SYSTEM: &str = "meshwright-system";

fn mesh_wide(spec: Value) -> Object {
    policy_with("MeshPolicy", "whole", SYSTEM, &json!({}), spec)
}

fn in_namespace(spec: Value) -> Object {
    policy("MeshPolicy", "space", spec)
}

fn of_workload(app: &str, mut spec: Value) -> Object {
    spec["selector"] = json!({"matchLabels": {"app": app}});
    policy("MeshPolicy", "workload", spec)
}

/// What somebody who is not allowed gets with an identity, and what somebody without a sidecar gets. `None` is no
/// answer.
type Answers = (Option<u16>, Option<u16>);

fn cases() -> Vec<(&'static str, Vec<Object>, Answers)> {
    let open = json!({"mtls": "Permissive", "authorization": "AllowAll"});
    let shut = json!({"mtls": "Strict", "authorization": "Enforce"});
    let elsewhere = policy_with("MeshPolicy", "other", "other", &json!({}), open.clone());
    vec![
        ("the MeshConfig alone", vec![elsewhere], (Some(403), None)),
        ("the mesh", vec![mesh_wide(open.clone())], (Some(200), Some(200))),
        ("permissive is not allowed", vec![mesh_wide(json!({"mtls": "Permissive"}))], (Some(403), Some(403))),
        (
            "a namespace over the mesh",
            vec![mesh_wide(open.clone()), in_namespace(shut.clone())],
            (Some(403), None),
        ),
        (
            "a namespace over the mesh, in one of both",
            vec![mesh_wide(open.clone()), in_namespace(json!({"mtls": "Strict"}))],
            (Some(200), None),
        ),
        (
            "a workload over its namespace",
            vec![
                mesh_wide(shut.clone()),
                in_namespace(shut.clone()),
                of_workload("store", json!({"mtls": "Permissive", "authorization": "Audit"})),
            ],
            (Some(200), Some(200)),
        ),
        ("another workload", vec![in_namespace(shut), of_workload("buyer", open)], (Some(403), None)),
    ]
}

#[test]
fn the_most_specific_policy_decides() {
    for version in VERSIONS {
        for (case, policies, expected) in cases() {
            let all = |_| requests_only().into_iter().chain(policies.clone()).collect();
            let pair =
                Pair::new(version, settings_of(Authorization::Enforce), Declared::name("http"), all, app());
            let thief = pair.caller("thief", "outbound");
            let status = |port| ask(port, "GET", "/books", &[]).map(|(status, _)| status);
            assert_eq!((status(thief.port), status(pair.server_port)), expected, "{version}: {case}");
            let allowed = |from| {
                let request =
                    Request::Http { method: "GET".to_owned(), path: "/books".to_owned(), headers: [].into() };
                let to = Callee::Pod {
                    namespace: NS.to_owned(),
                    name: "store-0".to_owned(),
                    port: pair.server_port,
                };
                matches!(decide(&pair.mesh, &Call { from, to, request }), Verdict::Allowed(_))
            };
            let thief = Caller::ServiceAccount(ServiceAccount::new(NS, "thief"));
            let decided = (allowed(thief), allowed(Caller::Plaintext));
            assert_eq!(decided, (expected.0 == Some(200), expected.1 == Some(200)), "{case}");
        }
    }
}
