//! Where bytes of strangers come in, as functions of bytes: what `fuzz/` feeds for hours, and the tests of this crate for
//! a moment. Each returns whether the bytes were taken for something; none may panic, whatever they are.
//!
//! ```text
//!  policies   YAML of a repository ──▶ bundle ──▶ ingest ──▶ view ──▶ render (Envoy's bytes)
//!  review     body of a webhook call ──▶ injection and validation
//!  csr        body of a certificate request; holding: of a report of what is trusted; token: who asks
//!  stream     requests of one xDS stream, each with its length before it ──▶ session
//!  pack, tree, answer: what a Git server sends, what a repository holds, what the confined child says of it
//!  region, slots: files that every container of a pod can write, read by the launcher
//! ```

use std::collections::BTreeMap;

use controller::certificates::csr::SigningRequest;
use controller::certificates::holdings::Holding;
use gitops::{Commit, Policy, PolicySpec, RepoPath, Scope};
use injector::NamespaceMeta;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::core::{DynamicObject, ObjectMeta};
use mesh::{Mesh, Object, render, view};
use serde_json::json;

mod git;
mod pod;
mod wire;

pub use git::{answer, pack, tree};
pub use pod::{region, slots};
pub use wire::{stream, token};

/// A way in.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus (`fuzz/corpus/<name>`).
    pub name: &'static str,
    /// Takes bytes.
    pub take: fn(&[u8]) -> bool,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    Target { name: "policies", take: policies },
    Target { name: "review", take: review },
    Target { name: "csr", take: csr },
    Target { name: "holding", take: holding },
    Target { name: "token", take: token },
    Target { name: "stream", take: stream },
    Target { name: "pack", take: pack },
    Target { name: "tree", take: tree },
    Target { name: "answer", take: answer },
    Target { name: "region", take: region },
    Target { name: "slots", take: slots },
];

/// A file of a repository, all the way to the bytes that Envoys get.
#[must_use]
pub fn policies(data: &[u8]) -> bool {
    let Ok(path) = RepoPath::new("policies.yaml") else { return false };
    let files = BTreeMap::from([(path, String::from_utf8_lossy(data).into_owned())]);
    let commit = Commit { id: "0".repeat(40), subject: String::new(), time: String::new() };
    let (bundle, problems) = gitops::parse(commit, &files, &Scope::Own("shop".to_owned()));
    for problem in &problems {
        assert!(problem.to_string().len() < 4096, "a problem is told to people: {problem}");
    }
    let mut mesh = world("Enforce");
    for policy in &bundle.policies {
        mesh.apply(object(policy));
    }
    for problem in mesh.problems() {
        assert!(problem.message.len() < 4096, "a problem is told to people: {problem}");
    }
    for pod in ["client", "server"] {
        if let Ok(audience) = mesh.audience("shop", pod) {
            let _ = render(&view(&mesh, &audience));
        }
    }
    !bundle.policies.is_empty()
}

/// One namespace, one service, a pod that calls and one that answers.
fn world(authorization: &str) -> Mesh {
    let pod = |name: &str, address: &str| {
        json!({
            "metadata": {
                "name": name, "namespace": "shop", "uid": name,
                "labels": {"app": name, "meshwright.io/mesh": "fuzz", "meshwright.io/revision": "0.2.0"},
                "annotations": {"meshwright.io/injection": "injected"},
            },
            "spec": {
                "serviceAccountName": name,
                "containers": [
                    {"name": "app", "ports": [{"containerPort": 8080}]},
                    {"name": "meshwright-proxy", "image": "meshwright/proxy:0.2.0"},
                ],
            },
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        })
    };
    let service = json!({
        "metadata": {"name": "server", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "selector": {"app": "server"},
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    let namespace = json!({"metadata": {"name": "shop", "labels": {"meshwright.io/mesh": "fuzz"}}});
    let spec = json!({"version": "0.2.0", "traffic": {"authorization": authorization}});
    let spec =
        serde_json::from_value(spec).unwrap_or_else(|error| panic!("the world's own MeshConfig: {error}"));
    let mut mesh = Mesh::new(mesh::Settings::new("fuzz", &spec));
    if let Ok(namespace) = serde_json::from_value::<Namespace>(namespace) {
        mesh.apply(Object::from(namespace));
    }
    for (name, address) in [("client", "10.1.0.1"), ("server", "10.1.0.2")] {
        if let Ok(pod) = serde_json::from_value::<Pod>(pod(name, address)) {
            mesh.apply(Object::from(pod));
        }
    }
    if let Ok(service) = serde_json::from_value::<Service>(service) {
        mesh.apply(Object::from(service));
    }
    mesh
}

/// A policy as the object that it is applied as.
fn object(policy: &Policy) -> Object {
    let metadata = ObjectMeta {
        name: Some(policy.key.name.clone()),
        namespace: Some(policy.key.namespace.clone()),
        ..ObjectMeta::default()
    };
    macro_rules! object {
        ($kind:ident, $spec:ident) => {{
            let mut object = crds::$kind::new(&policy.key.name, $spec.clone());
            object.metadata = metadata;
            Object::from(object)
        }};
    }
    match &policy.spec {
        PolicySpec::TrafficTarget(spec) => object!(TrafficTarget, spec),
        PolicySpec::HTTPRouteGroup(spec) => object!(HTTPRouteGroup, spec),
        PolicySpec::TCPRoute(spec) => object!(TCPRoute, spec),
        PolicySpec::TrafficSplit(spec) => object!(TrafficSplit, spec),
        PolicySpec::MeshPolicy(spec) => object!(MeshPolicy, spec),
        PolicySpec::Egress(spec) => object!(Egress, spec),
        PolicySpec::IngressBackend(spec) => object!(IngressBackend, spec),
        PolicySpec::Retry(spec) => object!(Retry, spec),
        PolicySpec::UpstreamTrafficSetting(spec) => object!(UpstreamTrafficSetting, spec),
    }
}

/// The body of a call to the webhooks.
#[must_use]
pub fn review(data: &[u8]) -> bool {
    let settings =
        injector::Settings::new("fuzz", "meshwright-system", "0.2.0", "c:15012", "meshwright/proxy:0.2.0");
    let pod = injector::admission::read::<Pod>(data).map(|request| {
        let _ = injector::admission::mutate(&request, &NamespaceMeta::assumed("shop", "fuzz"), &settings);
    });
    let policy = injector::admission::read::<DynamicObject>(data).map(|request| {
        let _ = injector::admission::judge(&request, crds::mesh_config::Floor::default());
    });
    pod.is_ok() || policy.is_ok()
}

/// The body of a request for a certificate.
#[must_use]
pub fn csr(data: &[u8]) -> bool {
    SigningRequest::parse(data).is_ok_and(|request| {
        let _ = request.check_names(&[]);
        true
    })
}

/// The body of a report of what is trusted.
#[must_use]
pub fn holding(data: &[u8]) -> bool {
    Holding::parse(data).is_some()
}

/// Bytes that differ from the given ones in a few places; the same seed gives the same.
#[must_use]
pub fn mutate(bytes: &[u8], other: &[u8], seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(below.max(1)).unwrap_or(1)).unwrap_or_default()
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            1 if !bytes.is_empty() => bytes.truncate(at),
            2 => {
                let from = next(other.len());
                let part = other.get(from..(from + next(64)).min(other.len())).unwrap_or_default();
                let at = at.min(bytes.len());
                bytes.splice(at..at, part.iter().copied());
            }
            3 if !bytes.is_empty() => {
                let end = (at + next(16)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let odd: [&[u8]; 8] =
                    [b"-1", b"99999999999999999999", b"\xff", b"\0", b"null", b"{", b"\n", b"1e309"];
                let at = at.min(bytes.len());
                bytes.splice(at..at, odd[next(odd.len())].iter().copied());
            }
            _ => {
                let end = (at + next(128)).min(bytes.len());
                let part = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.extend(part);
            }
        }
    }
    bytes
}
