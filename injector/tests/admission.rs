//! Reviews, good and hostile.

use injector::admission::{self, BadReview};
use injector::{Decision, Reason, Settings, inject};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionRequest;
use serde_json::{Value, json};

use crate::golden::{namespace, patched, settings};

fn review(kind: &Value, operation: &str, object: &Value) -> Vec<u8> {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74", "kind": kind, "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "bookstore", "operation": operation, "userInfo": {}, "object": object, "oldObject": null
        }
    })
    .to_string()
    .into_bytes()
}

fn pod_kind() -> Value {
    json!({"group": "", "version": "v1", "kind": "Pod"})
}

fn pod() -> Value {
    json!({"metadata": {"generateName": "store-"}, "spec": {"containers": [{"name": "app", "image": "app:1"}]}})
}

#[test]
fn a_pod_gets_its_patch_in_a_review_of_its_own() {
    let request: AdmissionRequest<Pod> = admission::read(&review(&pod_kind(), "CREATE", &pod())).unwrap();
    let (response, decision) = admission::mutate(&request, &namespace(), &settings());
    assert!(response.allowed);
    assert_eq!(response.audit_annotations["decision"], "Injected");
    let answer = serde_json::to_value(response.into_review()).unwrap();
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], "0c9a8d74");
    assert_eq!(answer["response"]["patchType"], "JSONPatch");
    let Some(Decision::Inject(patch)) = decision else { panic!("not injected") };
    let after = patched(request.object.as_ref().unwrap(), &patch);
    let sidecar = after.spec.unwrap().containers.remove(0);
    assert_eq!(sidecar.name, "meshwright-proxy");
    let seeded = Settings { seed: "0c9a8d74".to_owned(), ..settings() };
    let Decision::Inject(patch) = inject(request.object.as_ref().unwrap(), &namespace(), &seeded) else {
        panic!("not injected")
    };
    let expected = patched(request.object.as_ref().unwrap(), &patch).spec.unwrap().containers.remove(0);
    assert_eq!(sidecar.security_context, expected.security_context, "its user is made from the review's uid");
}

#[test]
fn what_is_no_creation_of_a_pod_is_let_through_unchanged() {
    for (operation, object) in [("UPDATE", pod()), ("DELETE", Value::Null), ("CONNECT", pod())] {
        let request: AdmissionRequest<Pod> =
            admission::read(&review(&pod_kind(), operation, &object)).unwrap();
        let (response, decision) = admission::mutate(&request, &namespace(), &settings());
        assert!(response.allowed && response.patch.is_none() && decision.is_none(), "{operation}");
    }
}

#[test]
fn another_kind_is_refused_with_its_name() {
    let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let request: AdmissionRequest<Pod> = admission::read(&review(&kind, "CREATE", &pod())).unwrap();
    let (response, _) = admission::mutate(&request, &namespace(), &settings());
    assert!(!response.allowed);
    assert!(response.result.message.contains("apps/Deployment"), "{}", response.result.message);
}

#[test]
fn a_denial_says_how_to_stay_outside() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["name"] = "meshwright-proxy".into();
    let request: AdmissionRequest<Pod> = admission::read(&review(&pod_kind(), "CREATE", &pod)).unwrap();
    let (response, _) = admission::mutate(&request, &namespace(), &settings());
    assert_eq!((response.allowed, response.result.code), (false, 403));
    assert!(response.result.message.contains("NameCollision"), "{}", response.result.message);
    assert!(
        response.result.message.contains("meshwright.io/inject: \"false\""),
        "{}",
        response.result.message
    );
}

#[test]
fn a_skipped_pod_carries_its_reason() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    let request: AdmissionRequest<Pod> = admission::read(&review(&pod_kind(), "CREATE", &pod)).unwrap();
    let (response, decision) = admission::mutate(&request, &namespace(), &settings());
    assert!(response.allowed);
    let Some(Decision::Skip(Reason::HostNetwork, patch)) = decision else { panic!("not skipped") };
    let after = patched(request.object.as_ref().unwrap(), &patch);
    assert_eq!(after.metadata.annotations.unwrap()["meshwright.io/injection"], "skipped: HostNetwork");
}

#[test]
fn the_deletion_of_a_mesh_is_judged_by_what_it_was() {
    let kind = json!({"group": "meshwright.io", "version": "v1alpha1", "kind": "MeshConfig"});
    let deletion = |sidecars: i32| {
        let mut body: Value = serde_json::from_slice(&review(&kind, "DELETE", &Value::Null)).unwrap();
        body["request"]["oldObject"] = json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": "books"},
            "spec": {"version": "0.2.0"}, "status": {"proxies": {"total": sidecars, "connected": 0, "rejected": 0}}
        });
        let request: AdmissionRequest<DynamicObject> = admission::read(body.to_string().as_bytes()).unwrap();
        admission::judge(&request, Default::default())
    };
    let refused = deletion(2);
    assert_eq!((refused.allowed, refused.result.code), (false, 403));
    assert!(refused.result.message.contains("2 sidecars"), "{}", refused.result.message);
    assert!(deletion(0).allowed);
}

#[test]
fn hostile_bodies_are_errors_and_nothing_worse() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let old = json!({"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {}})
        .to_string();
    let empty = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}).to_string();
    let scalar = review(&pod_kind(), "CREATE", &json!({"metadata": {}, "spec": {"containers": "none"}}));
    let scalar = String::from_utf8(scalar).unwrap();
    for body in ["", "null", "{}", "\u{0}", "[]", &deep, &old, &empty, &scalar] {
        assert!(admission::read::<Pod>(body.as_bytes()).is_err(), "{}", &body[..body.len().min(60)]);
        let _ = admission::read::<DynamicObject>(body.as_bytes());
    }
    assert!(admission::read::<Pod>(&[0xff, 0xfe, 0x00]).is_err());
    assert!(matches!(admission::read::<Pod>(old.as_bytes()), Err(BadReview::Version { .. })));
    assert!(matches!(admission::read::<Pod>(empty.as_bytes()), Err(BadReview::NoRequest)));
}
