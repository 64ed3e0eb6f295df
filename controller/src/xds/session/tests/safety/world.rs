//! The mesh that the streams are about, and what somebody changes in it.

use mesh::{Mesh, Object, Settings};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Pods and their service accounts. The first one is the attacker's; the other thief has another service account of it.
pub(super) const PODS: [(&str, &str); 6] = [
    ("thief-1", "thief"),
    ("thief-2", "other-thief"),
    ("store-1", "store"),
    ("store-2", "store"),
    ("cart-1", "cart"),
    ("buyer-1", "buyer"),
];
pub(super) const FIRST_HONEST: usize = 2;
pub(super) const ACCOUNTS: [&str; 5] = ["thief", "other-thief", "store", "cart", "buyer"];
/// Outside the mesh.
pub(super) const HOSTS: [&str; 2] = ["example.com", "example.org"];
pub(super) const METHODS: [&str; 2] = ["GET", "POST"];

fn object<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Object {
    serde_json::from_value::<T>(value).unwrap().into()
}

fn smi(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

pub(super) fn world() -> Mesh {
    use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
    let spec = serde_json::from_value(json!({"version": "0.1.0"})).unwrap();
    let mut mesh = Mesh::new(Settings::new("main", &spec));
    mesh.apply(object::<Namespace>(
        json!({"metadata": {"name": "shop", "labels": {"meshwright.io/mesh": "main"}}}),
    ));
    for (pod, account) in PODS {
        mesh.apply(object::<Pod>(json!({
            "metadata": {
                "name": pod, "namespace": "shop", "uid": pod,
                "labels": {"app": account, "meshwright.io/mesh": "main", "meshwright.io/revision": "0.1.0"},
            },
            "spec": {"serviceAccountName": account, "containers": [{"name": "meshwright-proxy"}]},
            "status": {"phase": "Running"},
        })));
    }
    for (number, account) in (1..).zip(ACCOUNTS) {
        mesh.apply(object::<Service>(json!({
            "metadata": {"name": account, "namespace": "shop"},
            "spec": {"clusterIP": format!("10.9.0.{number}"), "selector": {"app": account},
                     "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        })));
    }
    for (name, methods) in [("read", json!(["GET"])), ("all", json!(["*"]))] {
        let spec = json!({"matches": [{"name": "m", "pathRegex": "/.*", "methods": methods}]});
        mesh.apply(object::<crds::HTTPRouteGroup>(smi(
            "specs.smi-spec.io/v1alpha4",
            "HTTPRouteGroup",
            name,
            &spec,
        )));
    }
    // So that something can be closed from the first step on.
    let store = ACCOUNTS.iter().position(|account| *account == "store").unwrap();
    for (host, tls) in (0..HOSTS.len()).flat_map(|host| [(host, true), (host, false)]) {
        edit(&mut mesh, Edit::Open { from: store, host, tls, writes: true });
    }
    mesh.synced();
    mesh
}

/// What somebody changes in the mesh. A thief can do no other than others: policies are the mesh's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Edit {
    Grant {
        from: usize,
        to: usize,
        writes: bool,
    },
    Revoke {
        from: usize,
        to: usize,
    },
    AllowAll(bool),
    /// Opens a host outside to an account, for TLS or for HTTP requests; or closes it.
    Open {
        from: usize,
        host: usize,
        tls: bool,
        writes: bool,
    },
    Close {
        from: usize,
        host: usize,
        tls: bool,
    },
}

pub(super) fn edit(mesh: &mut Mesh, edit: Edit) {
    let target = |from: usize, to: usize| format!("t-{from}-{to}");
    let open = |from: usize, host: usize, tls: bool| format!("o-{from}-{host}-{tls}");
    let policy = |kind, name: &str| mesh::ObjectRef::new(kind, "shop", name);
    match edit {
        Edit::Grant { from, to, writes } => {
            let spec = json!({
                "destination": {"kind": "ServiceAccount", "name": ACCOUNTS[to], "namespace": "shop"},
                "sources": [{"kind": "ServiceAccount", "name": ACCOUNTS[from], "namespace": "shop"}],
                "rules": [{"kind": "HTTPRouteGroup", "name": if writes { "all" } else { "read" }}],
            });
            let target = smi("access.smi-spec.io/v1alpha3", "TrafficTarget", &target(from, to), &spec);
            mesh.apply(object::<crds::TrafficTarget>(target));
        }
        Edit::Revoke { from, to } => {
            mesh.delete(&policy(mesh::Kind::TrafficTarget, &target(from, to)));
        }
        Edit::AllowAll(true) => {
            let spec = json!({"authorization": "AllowAll"});
            mesh.apply(object::<crds::MeshPolicy>(smi(
                "meshwright.io/v1alpha1",
                "MeshPolicy",
                "mode",
                &spec,
            )));
        }
        Edit::AllowAll(false) => {
            mesh.delete(&policy(mesh::Kind::MeshPolicy, "mode"));
        }
        Edit::Open { from, host, tls, writes } => {
            let (number, protocol) = if tls { (443, "https") } else { (80, "http") };
            let group = json!({"kind": "HTTPRouteGroup", "name": if writes { "all" } else { "read" }});
            let spec = json!({
                "sources": [{"kind": "ServiceAccount", "name": ACCOUNTS[from], "namespace": "shop"}],
                "hosts": [HOSTS[host]], "ports": [{"number": number, "protocol": protocol}],
                "matches": if tls { json!([]) } else { json!([group]) },
            });
            let egress = smi("policy.openservicemesh.io/v1alpha1", "Egress", &open(from, host, tls), &spec);
            mesh.apply(object::<crds::Egress>(egress));
        }
        Edit::Close { from, host, tls } => {
            mesh.delete(&policy(mesh::Kind::Egress, &open(from, host, tls)));
        }
    }
}

pub(super) fn any_edit() -> impl Strategy<Value = Edit> {
    // Most of all the one with two pods: what one of them is sent must not wait for the other.
    let account = || prop_oneof![1 => Just(2_usize), 1 => 0..ACCOUNTS.len()];
    let host = || 0..HOSTS.len();
    prop_oneof![
        3 => (account(), account(), any::<bool>()).prop_map(|(from, to, writes)| Edit::Grant { from, to, writes }),
        3 => (account(), account()).prop_map(|(from, to)| Edit::Revoke { from, to }),
        1 => any::<bool>().prop_map(Edit::AllowAll),
        3 => (account(), host(), any::<bool>(), any::<bool>())
            .prop_map(|(from, host, tls, writes)| Edit::Open { from, host, tls, writes }),
        2 => (account(), host(), any::<bool>()).prop_map(|(from, host, tls)| Edit::Close { from, host, tls }),
    ]
}
