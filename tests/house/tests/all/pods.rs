//! Every pod that we make fits the Pod Security Standard "restricted", but for the init container that redirects traffic.

use std::collections::BTreeSet;

use crds::{MeshConfig, labels};
use house::pod_security::violations;
use injector::{Decision, NamespaceMeta, Settings, inject};
use k8s_openapi::api::core::v1::Pod;
use operator::control_plane::build::{Blueprint, all};
use operator::control_plane::facts::Server;
use serde_json::{Value, json};

fn documents(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(house::root().join(path)).unwrap();
    let documents = gitops::yaml::documents(&text, gitops::yaml::Format::Yaml).unwrap();
    documents.iter().map(|document| document.untyped().unwrap()).collect()
}

/// The pod specs of workloads, with a name for each.
fn specs(objects: &[Value]) -> Vec<(String, Value)> {
    let of = |object: &Value| {
        let spec =
            object.pointer("/spec/jobTemplate/spec/template/spec").or(object.pointer("/spec/template/spec"));
        let spec = spec.or(if object["kind"] == "Pod" { object.get("spec") } else { None })?;
        Some((format!("{} {}", object["kind"], object["metadata"]["name"]), spec.clone()))
    };
    objects.iter().filter_map(of).collect()
}

#[test]
fn the_rules_catch_what_breaks_them() {
    let good = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let pod = |context: &Value| json!({"containers": [{"name": "c", "securityContext": context}]});
    assert_eq!(violations(&pod(&good), &[]), Vec::<String>::new());
    for (pointer, value) in [
        ("/runAsNonRoot", json!(false)),
        ("/runAsUser", json!(0)),
        ("/allowPrivilegeEscalation", Value::Null),
        ("/capabilities", json!({"drop": ["NET_RAW"]})),
        ("/capabilities", json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})),
        ("/seccompProfile", json!({"type": "Unconfined"})),
        ("/privileged", json!(true)),
    ] {
        let mut bad = good.clone();
        bad[pointer.trim_start_matches('/')] = value;
        assert_eq!(violations(&pod(&bad), &[]).len(), 1, "{bad}");
        assert!(violations(&pod(&bad), &["c"]).is_empty());
    }
    let volumes = json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}], "hostNetwork": true});
    assert_eq!(violations(&volumes, &[]), ["hostNetwork", "a volume of kind hostPath"]);
}

#[test]
fn operator_and_demo_are_restricted() {
    let files = [
        "config/operator/deployment.yaml",
        "config/demo/app/bookstore.yaml",
        "config/demo/app/callers.yaml",
        "config/demo/app/load.yaml",
        "config/demo/app/streams.yaml",
        "config/demo/git/git-server.yaml",
    ];
    for file in files {
        let specs = specs(&documents(file));
        assert!(!specs.is_empty(), "{file} makes no pod");
        for (name, spec) in specs {
            assert_eq!(violations(&spec, &[]), Vec::<String>::new(), "{file}: {name}");
        }
    }
}

#[test]
fn the_control_plane_is_restricted() {
    let spec = json!({"version": "0.2.0"});
    let mut mesh = MeshConfig::new("demo", serde_json::from_value(spec).unwrap());
    mesh.metadata.uid = Some("1".to_owned());
    let children = all(&Blueprint {
        mesh: &mesh,
        image_prefix: "meshwright/",
        cluster_domain: "cluster.local",
        revisions: BTreeSet::from(["0.1.0".to_owned(), "0.2.0".to_owned()]),
        injecting: BTreeSet::new(),
        served: BTreeSet::new(),
        answering: None,
        validating: None,
        trust_bundle: None,
        members: BTreeSet::new(),
        server: Server::default(),
        operator: "meshwright-system",
    });
    let children: Vec<_> = children.iter().map(|child| serde_json::to_value(child).unwrap()).collect();
    let specs = specs(&children);
    assert_eq!(specs.len(), 4, "controller and injector of two releases");
    for (name, spec) in specs {
        assert_eq!(violations(&spec, &[]), Vec::<String>::new(), "{name}");
    }
}

/// A pod that was restricted before is restricted after injection, in every shape that a sidecar has.
#[test]
fn an_injected_pod_is_restricted_but_for_its_init_container() {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "web", "image": "web",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                "livenessProbe": {"httpGet": {"path": "/", "port": 8080}},
            }],
        },
    });
    let namespace = NamespaceMeta::assumed("shop", "demo");
    let typed: Pod = serde_json::from_value(pod.clone()).unwrap();
    for strategy in ["Restart", "HotSwap"] {
        for native_sidecars in [false, true] {
            let spec = json!({"version": "0.2.0", "upgrade": {"strategy": strategy}});
            let settings =
                Settings::new("demo", "meshwright-system", "0.2.0", "c:15012", "meshwright/proxy:0.2.0");
            let settings = settings.with(&serde_json::from_value(spec).unwrap()).unwrap();
            let settings = Settings { native_sidecars, ..settings };
            let Decision::Inject(patch) = inject(&typed, &namespace, &settings) else {
                panic!("not injected")
            };
            let mut injected = pod.clone();
            json_patch::patch(&mut injected, &patch).unwrap();
            let containers = injected["spec"].to_string();
            assert_eq!(containers.contains(labels::PROXY_CONTAINER_B), strategy == "HotSwap");
            let broken = violations(&injected["spec"], &[labels::INIT_CONTAINER]);
            assert_eq!(broken, Vec::<String>::new(), "{strategy}, native {native_sidecars}");
            let all = violations(&injected["spec"], &[]);
            assert!(
                all.iter().all(|rule| rule.starts_with(labels::INIT_CONTAINER)) && !all.is_empty(),
                "{all:?}"
            );
        }
    }
}
