//! What can never be right, and what must not be refused.

use crds::mesh_config::{Authorization, Floor, Mtls};
use injector::validate::judge;
use kube::core::DynamicObject;
use serde_json::{Value, json};

fn object(value: &Value) -> DynamicObject {
    serde_json::from_value(value.clone()).unwrap()
}

fn refusals(group: &str, kind: &str, metadata: &Value, spec: &Value) -> Vec<String> {
    let value = json!({"apiVersion": "x/v1", "kind": kind, "metadata": metadata, "spec": spec});
    judge(group, kind, &object(&value), None).iter().map(ToString::to_string).collect()
}

fn config(spec: &Value) -> Vec<String> {
    let mut whole = json!({"version": "0.2.0"});
    json_patch::merge(&mut whole, spec);
    refusals("meshwright.io", "MeshConfig", &json!({"name": "books"}), &whole)
}

#[test]
fn a_mesh_with_defaults_is_fine() {
    assert_eq!(config(&json!({})), Vec::<String>::new());
}

#[test]
fn each_mistake_of_a_mesh_is_named_by_its_field() {
    let source = json!({"name": "p", "git": {"url": "http://git/p.git", "ref": {}}});
    let cases = [
        (json!({"version": "latest"}), "spec.version"),
        (json!({"version": "1.0.0; rm -rf /"}), "spec.version"),
        (json!({"trustDomain": "Books Example"}), "spec.trustDomain"),
        (json!({"namespace": "Meshwright"}), "spec.namespace"),
        (json!({"certificateAuthority": {"workloadTTL": "5d"}}), "spec.certificateAuthority.workloadTTL"),
        (
            json!({"certificateAuthority": {"provider": "Secret", "rootGeneration": 2}}),
            "spec.certificateAuthority.rootGeneration",
        ),
        (json!({"certificateAuthority": {"workloadTTL": "1m"}}), "spec.certificateAuthority.workloadTTL"),
        (json!({"certificateAuthority": {"workloadTTL": "24h", "rootTTL": "1h"}}), "workloadTTL"),
        (json!({"watchedNamespaces": {"names": ["ok", "Not OK"]}}), "spec.watchedNamespaces.names[1]"),
        (json!({"watchedNamespaces": {"names": ["meshwright-system"]}}), "spec.watchedNamespaces.names[0]"),
        (json!({"traffic": {"exclusions": {"outboundPorts": [443, 70000]}}}), "outboundPorts[1]"),
        (json!({"traffic": {"exclusions": {"outboundCidrs": ["10.0.0.0/33"]}}}), "outboundCidrs[0]"),
        (json!({"sidecar": {"concurrency": 0}}), "spec.sidecar.concurrency"),
        (json!({"sidecar": {"logLevel": "loud"}}), "spec"),
        (json!({"controlPlane": {"replicas": 0}}), "spec.controlPlane.replicas"),
        (json!({"upgrade": {"soak": "soon"}}), "spec.upgrade.soak"),
        (
            json!({"upgrade": {"waves": [{"name": "a", "namespaces": ["x"]}, {"name": "b", "namespaces": ["x"]}]}}),
            "spec.upgrade.waves[1].namespaces",
        ),
        (json!({"policySources": [source.clone(), source]}), "spec.policySources[1].name"),
        (
            json!({"policySources": [{"name": "p", "git": {"url": "ftp://x", "ref": {}}}]}),
            "spec.policySources[0].git.url",
        ),
        (
            json!({"policySources": [{"name": "p", "interval": "now", "git": {"url": "/p", "ref": {}}}]}),
            "spec.policySources[0].interval",
        ),
        (
            json!({"policySources": [{"name": "p", "git": {"url": "/p", "ref": {"commit": "abc"}}}]}),
            "git.ref.commit",
        ),
        (
            json!({"policySources": [{"name": "p", "git": {"url": "/p", "ref": {}, "path": "../x"}}]}),
            "git.path",
        ),
    ];
    for (spec, field) in cases {
        let refusals = config(&spec);
        assert_eq!(refusals.len(), 1, "{spec}: {refusals:?}");
        assert!(refusals[0].contains(field), "{spec}: {refusals:?}");
    }
}

#[test]
fn what_runs_on_a_trust_domain_keeps_it() {
    let mesh = |domain: &str, namespace: &str, proxies: i32| {
        object(&json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": {"version": "0.2.0", "trustDomain": domain, "namespace": namespace},
            "status": {"proxies": {"total": proxies, "connected": 0, "rejected": 0}}
        }))
    };
    let changed = |before: &DynamicObject, after: &DynamicObject| {
        judge("meshwright.io", "MeshConfig", after, Some(before))
            .into_iter()
            .map(|r| r.field)
            .collect::<Vec<_>>()
    };
    let before = mesh("a.example", "meshwright-system", 3);
    assert_eq!(changed(&before, &mesh("b.example", "meshwright-system", 3)), ["spec.trustDomain"]);
    assert_eq!(changed(&before, &mesh("a.example", "elsewhere", 3)), ["spec.namespace"]);
    let idle = mesh("a.example", "meshwright-system", 0);
    assert_eq!(changed(&idle, &mesh("b.example", "meshwright-system", 0)), Vec::<String>::new());
}

#[test]
fn a_mesh_is_not_below_its_own_floor() {
    let judged = |traffic: Value| config(&json!({"traffic": traffic}));
    assert_eq!(judged(json!({"mtls": "Permissive", "authorization": "AllowAll"})), Vec::<String>::new());
    assert_eq!(
        judged(json!({"floor": {"mtls": "Strict", "authorization": "Enforce"}})),
        Vec::<String>::new()
    );
    assert_eq!(
        judged(
            json!({"mtls": "Permissive", "authorization": "Audit", "floor": {"mtls": "Strict", "authorization": "Enforce"}})
        ),
        [
            "spec.traffic.mtls: Permissive is below spec.traffic.floor, Strict; say Strict here, or lower the floor",
            "spec.traffic.authorization: Audit is below spec.traffic.floor, Enforce; say Enforce here, or lower the floor",
        ]
    );
}

#[test]
fn a_policy_below_the_floor_is_stored_and_its_author_is_told() {
    let floor = Floor { mtls: Some(Mtls::Strict), authorization: Some(Authorization::Audit) };
    let said = |spec: Value, floor: Floor| {
        let metadata = json!({"name": "open", "namespace": "shop"});
        assert_eq!(refusals("meshwright.io", "MeshPolicy", &metadata, &spec), Vec::<String>::new());
        let value = json!({"apiVersion": "x/v1", "kind": "MeshPolicy", "metadata": metadata, "spec": spec});
        injector::validate::warn("meshwright.io", "MeshPolicy", &object(&value), floor)
    };
    let open = json!({"mtls": "Permissive", "authorization": "AllowAll"});
    assert_eq!(
        said(open.clone(), floor),
        [
            "spec.mtls: Permissive is below the floor of the mesh, so that Strict counts",
            "spec.authorization: AllowAll is below the floor of the mesh, so that Audit counts",
        ]
    );
    assert_eq!(said(open, Floor::default()), Vec::<String>::new());
    assert_eq!(said(json!({"mtls": "Strict", "authorization": "Audit"}), floor), Vec::<String>::new());
}

#[test]
fn an_upgrade_is_steered_and_never_rewritten() {
    let upgrade = |to: &str, paused: bool| {
        object(&json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshUpgrade", "metadata": {"name": "u"},
            "spec": {"mesh": "books", "from": "0.1.0", "to": to, "paused": paused}
        }))
    };
    let before = upgrade("0.2.0", false);
    assert!(judge("meshwright.io", "MeshUpgrade", &upgrade("0.2.0", true), Some(&before)).is_empty());
    assert_eq!(judge("meshwright.io", "MeshUpgrade", &upgrade("0.3.0", false), Some(&before)).len(), 1);
}

#[test]
fn policies_are_judged_as_the_mesh_would() {
    let meta = json!({"name": "t", "namespace": "bookstore"});
    let target = |kind: &str| {
        json!({
            "destination": {"kind": "ServiceAccount", "name": "bookstore"},
            "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "bookbuyer"}],
            "rules": [{"kind": kind, "name": "nowhere-to-be-found"}]
        })
    };
    let group = "access.smi-spec.io";
    // The rule names a group that isn't there: it may come later.
    assert_eq!(refusals(group, "TrafficTarget", &meta, &target("HTTPRouteGroup")), Vec::<String>::new());
    let refused = refusals(group, "TrafficTarget", &meta, &target("Deployment"));
    assert!(refused.len() == 1 && refused[0].contains("rules[0]"), "{refused:?}");
    let generated = json!({"generateName": "t-", "namespace": "bookstore"});
    assert_eq!(refusals(group, "TrafficTarget", &generated, &target("TCPRoute")), Vec::<String>::new());
    let shapeless = refusals(group, "TrafficTarget", &meta, &json!({"sources": 3}));
    assert!(shapeless.len() == 1 && shapeless[0].starts_with("spec"), "{shapeless:?}");
    let regex = json!({"matches": [{"name": "m", "pathRegex": "("}]});
    assert_eq!(refusals("specs.smi-spec.io", "HTTPRouteGroup", &meta, &regex).len(), 1);
    let osm = "policy.openservicemesh.io";
    let egress =
        json!({"sources": [{"kind": "ServiceAccount", "name": "a", "namespace": "other"}], "ports": []});
    assert_eq!(refusals(osm, "Egress", &meta, &egress).len(), 1);
    let everybody =
        json!({"backends": [{"name": "a", "port": {"number": 80, "protocol": "http"}}], "sources": []});
    assert_eq!(refusals(osm, "IngressBackend", &meta, &everybody).len(), 1);
    let retry = json!({
        "source": {"kind": "ServiceAccount", "name": "a"}, "destinations": [], "retryPolicy": {"retryOn": "often"}
    });
    assert_eq!(refusals(osm, "Retry", &meta, &retry).len(), 1);
    assert_eq!(refusals(osm, "UpstreamTrafficSetting", &meta, &json!({"host": "a.other.svc"})).len(), 1);
    assert_eq!(refusals(osm, "UpstreamTrafficSetting", &meta, &json!({"host": "a"})), Vec::<String>::new());
    let weights = json!({"service": "s", "backends": [{"service": "a", "weight": -1}]});
    assert_eq!(refusals("split.smi-spec.io", "TrafficSplit", &meta, &weights).len(), 1);
    // What somebody else calls so is none of ours to judge.
    assert_eq!(refusals("example.com", "TrafficSplit", &meta, &weights), Vec::<String>::new());
}

#[test]
fn an_object_with_an_old_mistake_can_be_let_go() {
    let bad = |finalizers: Value| {
        object(&json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "books", "finalizers": finalizers}, "spec": {"version": "nonsense"}
        }))
    };
    let (before, after) = (bad(json!(["meshwright.io/cleanup"])), bad(json!([])));
    assert_eq!(judge("meshwright.io", "MeshConfig", &after, Some(&before)), Vec::new());
    assert_eq!(judge("meshwright.io", "MeshConfig", &after, None).len(), 1);
}

#[test]
fn a_mesh_that_sidecars_live_by_is_not_deleted_by_accident() {
    use injector::validate::judge_deletion;
    let mesh = |annotations: Value, status: Value| {
        object(&json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig",
            "metadata": {"name": "books", "annotations": annotations}, "spec": {"version": "0.2.0"}, "status": status
        }))
    };
    let refused = |mesh: &DynamicObject| judge_deletion("meshwright.io", "MeshConfig", Some(mesh));
    let living = json!({"proxies": {"total": 3, "connected": 2, "rejected": 0}});
    let refusals = refused(&mesh(json!({}), living.clone()));
    assert_eq!(refusals.len(), 1);
    let message = refusals[0].to_string();
    assert!(message.contains("3 sidecars") && message.contains("meshwright uninstall"), "{message}");
    let silent = json!({"proxies": {"total": 3, "connected": 0, "rejected": 0}});
    assert_eq!(refused(&mesh(json!({}), silent)).len(), 1, "controllers that restart are no reason");
    let gone = json!({"proxies": {"total": 0, "connected": 0, "rejected": 0}});
    assert_eq!(refused(&mesh(json!({}), gone)), Vec::new());
    assert_eq!(refused(&mesh(json!({"meshwright.io/allow-deletion": "true"}), living.clone())), Vec::new());
    assert_eq!(refused(&mesh(json!({"meshwright.io/allow-deletion": "yes"}), living.clone())).len(), 1);
    // What nobody has looked at yet, and what another release wrote.
    assert_eq!(refused(&mesh(json!({}), Value::Null)), Vec::new());
    assert_eq!(refused(&mesh(json!({}), json!({"proxies": "many"}))), Vec::new());
    assert_eq!(judge_deletion("meshwright.io", "MeshConfig", None), Vec::new());
    assert_eq!(judge_deletion("", "Pod", Some(&mesh(json!({}), living))), Vec::new());
}

#[test]
fn other_kinds_are_none_of_our_business() {
    assert_eq!(refusals("", "ConfigMap", &json!({"name": "x"}), &json!({})), Vec::<String>::new());
}
