#![allow(clippy::needless_pass_by_value, reason = "facts of a test are made where they are given")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use upgrades::facts::{Kind, Proxy, Readiness, Rollout, Strategy};

use super::facts;
use crate::fleet::FleetView;

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn deployment(spec: Value, status: Value) -> facts::Owner {
    let mut spec = spec;
    spec["selector"] = json!({});
    spec["template"] = json!({"metadata": {"annotations": {"meshwright.io/moved-to": "0.2.0"}}});
    facts::deployment(&object::<Deployment>(
        json!({"metadata": {"name": "web", "generation": 2}, "spec": spec, "status": status}),
    ))
}

#[test]
fn a_deployment_is_settled_when_its_controller_says_so_about_the_latest_spec() {
    let status = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 3});
    let settled = deployment(json!({"replicas": 3}), status.clone()).workload;
    assert_eq!((settled.replicas, settled.rollout), (3, Rollout::Settled));
    assert_eq!(settled.moved_to.as_deref(), Some("0.2.0"));
    for (name, value) in [("observedGeneration", 1), ("updatedReplicas", 2), ("replicas", 4)] {
        let mut status = status.clone();
        status[name] = json!(value);
        assert_eq!(
            deployment(json!({"replicas": 3}), status).workload.rollout,
            Rollout::Progressing,
            "{name}"
        );
    }
}

#[test]
fn strategies_are_resolved_as_kubernetes_does() {
    let strategy = |strategy: Value| {
        deployment(json!({"replicas": 1, "strategy": strategy}), json!({})).workload.strategy
    };
    let rolling = |max_surge, max_unavailable| Strategy::RollingUpdate { max_surge, max_unavailable };
    assert_eq!(strategy(json!({})), rolling(1, 0));
    assert_eq!(strategy(json!({"type": "Recreate"})), Strategy::Recreate);
    let update = |update: Value| strategy(json!({"type": "RollingUpdate", "rollingUpdate": update}));
    assert_eq!(update(json!({"maxSurge": 0, "maxUnavailable": "25%"})), rolling(0, 1));
    assert_eq!(update(json!({"maxSurge": "nonsense", "maxUnavailable": -4})), rolling(0, 1));
    assert_eq!(update(json!({"maxSurge": 2, "maxUnavailable": "100%"})), rolling(2, 1));
    let paused = deployment(json!({"replicas": 1, "paused": true}), json!({}));
    assert_eq!(paused.workload.strategy, Strategy::Paused);
}

fn pod(labels: Value, containers: Value, status: Value) -> Pod {
    object(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": labels},
        "spec": {"containers": containers}, "status": status,
    }))
}

#[test]
fn a_sidecar_is_a_label_and_a_container() {
    let labels = json!({"meshwright.io/revision": "0.1.0"});
    let both = json!([{"name": "meshwright-proxy"}, {"name": "app"}]);
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    let meshed = facts::pod(&pod(labels.clone(), both.clone(), ready.clone()), None).unwrap();
    assert_eq!((meshed.revision.as_deref(), meshed.ready), (Some("0.1.0"), true));
    let controller = facts::pod(&pod(labels, json!([{"name": "controller"}]), ready), None).unwrap();
    assert_eq!(controller.revision, None);
    assert_eq!(facts::pod(&pod(json!({}), both, json!({"phase": "Succeeded"})), None), None);
}

#[test]
fn silence_of_a_controller_is_unknown_and_never_absence() {
    let pod = pod(json!({}), json!([]), json!({}));
    let proxy = |fleet: Option<&FleetView>| facts::pod(&pod, fleet).unwrap().proxy;
    let mut fleet = FleetView::default();
    assert_eq!(proxy(None), Proxy::Unknown);
    assert_eq!(proxy(Some(&fleet)), Proxy::Unknown);
    fleet.replicas.insert("c".to_owned(), "0.2.0".to_owned());
    assert_eq!(proxy(Some(&fleet)), Proxy::NotConnected);
    let mut report = json!({
        "namespace": "n", "pod": "p", "uid": "u", "version": "0.2.0", "envoy": "1.39.3",
        "connectedSince": "2026-01-01T00:00:00Z", "inSync": true, "rejected": [],
    });
    let mut told = |report: &Value| {
        fleet.proxies.insert(("n".to_owned(), "p".to_owned()), object(report.clone()));
        proxy(Some(&fleet))
    };
    assert_eq!(told(&report), Proxy::InSync);
    report["inSync"] = json!(false);
    assert_eq!(told(&report), Proxy::Behind);
    report["rejected"] = json!([{"resourceType": "Cluster", "names": ["x"], "error": "no"}]);
    assert_eq!(told(&report), Proxy::Rejecting("no".to_owned()));
    report["uid"] = json!("another pod of this name");
    assert_eq!(told(&report), Proxy::NotConnected);
    fleet.missing.insert("d".to_owned(), "no answer".to_owned());
    assert_eq!(proxy(Some(&fleet)), Proxy::Unknown);
}

#[test]
fn a_budget_that_its_controller_has_not_seen_allows_nothing() {
    let mesh_pod = pod(json!({"app": "web"}), json!([]), json!({}));
    let pods = [&mesh_pod];
    let budget = |generation: i64, selector: Value, v1beta1: bool| {
        let object: DynamicObject = object(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": "b", "generation": generation}, "spec": {"selector": selector},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 2},
        }));
        let budget = facts::budget(&object, v1beta1, &pods);
        (budget.allowed, budget.pods.len())
    };
    let web = json!({"matchLabels": {"app": "web"}});
    assert_eq!(budget(1, web.clone(), true), (2, 1));
    assert_eq!(budget(2, web, true), (0, 1));
    assert_eq!(budget(1, json!({"matchLabels": {"app": "db"}}), true), (2, 0));
    assert_eq!(budget(1, json!({}), true), (2, 0));
    assert_eq!(budget(1, json!({}), false), (2, 1));
    assert_eq!(budget(1, Value::Null, false), (2, 0));
}

#[test]
fn a_pod_belongs_to_what_owns_its_replica_set() {
    let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
    let owned = |kind: &str, name: &str| {
        object::<Pod>(json!({"metadata": {"name": "p", "ownerReferences": owner(kind, name)}}))
    };
    let above = object::<Deployment>(json!({"metadata": {"ownerReferences": owner("Deployment", "web")}}));
    let rollout = object::<Deployment>(json!({"metadata": {"ownerReferences": owner("Rollout", "canary")}}));
    let sets = BTreeMap::from([
        ("web-1".to_owned(), facts::controller(&above.metadata).cloned()),
        ("canary-1".to_owned(), facts::controller(&rollout.metadata).cloned()),
        ("lone".to_owned(), None),
    ]);
    let kind = |pod: &Pod| facts::workload_of(pod, &sets).kind;
    assert_eq!(kind(&owned("ReplicaSet", "web-1")), Kind::Deployment);
    assert_eq!(kind(&owned("ReplicaSet", "lone")), Kind::ReplicaSet);
    assert_eq!(kind(&owned("ReplicaSet", "canary-1")), Kind::Other("Rollout".to_owned()));
    assert_eq!(kind(&owned("Job", "web-1")), Kind::Job);
    assert_eq!(kind(&object(json!({"metadata": {"name": "p"}}))), Kind::Pod);
}

#[test]
fn a_revision_is_ready_with_both_halves_and_its_webhook() {
    let part = |name: &str, ready: i32| {
        object::<Deployment>(json!({
            "metadata": {"name": name, "labels": {"app.kubernetes.io/version": "0.2.0"}},
            "spec": {"replicas": 2, "selector": {}, "template": {}},
            "status": {"updatedReplicas": 2, "readyReplicas": ready},
        }))
    };
    let (controller, injector) =
        (part("meshwright-controller-0-2-0", 2), part("meshwright-injector-0-2-0", 2));
    let slow = part("meshwright-injector-0-2-0", 1);
    let hooks = ["meshwright-injector-m-0-2-0".to_owned()].into();
    let readiness =
        |parts: &[&Deployment], hooks: &BTreeSet<String>| facts::revisions("m", parts, hooks).remove("0.2.0");
    assert_eq!(readiness(&[&controller, &injector], &hooks), Some(Readiness::Ready));
    for (parts, hooks) in [
        (vec![&controller], hooks.clone()),
        (vec![&controller, &slow], hooks.clone()),
        (vec![&controller, &injector], BTreeSet::new()),
    ] {
        assert!(matches!(readiness(&parts, &hooks), Some(Readiness::NotReady(_))));
    }
    assert_eq!(readiness(&[&part("something-else", 2)], &hooks), None);
}
