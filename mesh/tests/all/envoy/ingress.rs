//! Calls that enter the mesh, from an ingress controller that is a real Envoy: what IngressBackends open is reached,
//! what they do not is not, and `decide` says the same of every call.

use std::net::IpAddr;

use crds::mesh_config::{Authorization, Egress, Mtls};
use envoys::{Envoy, Identities, VERSIONS, free_port};
use mesh::decide::{Callee, Caller, Request, Stranger, StrangerTls};
use mesh::{Call, Mesh, Verdict, decide};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apps::{app, ask, banner, connect, read_line, serve};
use super::live::config;
use super::outside::{Leg, gateway};
use crate::world::*;

/// Ports of the pod.
struct Ports {
    web: u16,
    api: u16,
    db: u16,
    shut: u16,
}

fn backend(name: &str, service: &str, port: u16, protocol: &str, more: (Value, Value)) -> mesh::Object {
    let (tls, sources) = more;
    let mut backend = json!({"name": service, "port": {"number": port, "protocol": protocol}});
    if !tls.is_null() {
        backend["tls"] = tls;
    }
    policy("IngressBackend", name, json!({"backends": [backend], "sources": sources}))
}

fn ingress_slice(addresses: &[&str]) -> mesh::Object {
    let endpoints: Vec<_> =
        addresses.iter().map(|one| json!({"addresses": [one], "conditions": {"ready": false}})).collect();
    let value = json!({
        "metadata": {"name": "gw-1", "namespace": "ingress", "labels": {"kubernetes.io/service-name": "gw"}},
        "addressType": "IPv4", "ports": [], "endpoints": endpoints,
    });
    serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap().into()
}

fn objects(at: &Ports) -> Vec<mesh::Object> {
    let all = json!({"app": "bookstore"});
    let port = |name: &str, address: &str, protocol: &str, number: u16| {
        service(name, address, all.clone(), &[(protocol, 80, json!(number))])
    };
    let principal = json!({"kind": "AuthenticatedPrincipal", "name": "gateway.ingress.cluster.local"});
    vec![
        namespace(NS, "demo"),
        pod("v1", "bookstore", "bookstore"),
        port("web", "10.0.0.10", "http", at.web),
        port("api", "10.0.0.11", "http", at.api),
        port("db", "10.0.0.12", "tcp", at.db),
        port("shut", "10.0.0.13", "http", at.shut),
        // The controller's pods are not part of the mesh, and one that is going may still finish its calls.
        ingress_slice(&["127.0.0.9"]),
        backend(
            "plain",
            "web",
            at.web,
            "http",
            (Value::Null, json!([{"kind": "Service", "name": "gw", "namespace": "ingress"}])),
        ),
        backend(
            "ranged",
            "web",
            at.web,
            "http",
            (Value::Null, json!([{"kind": "IPRange", "name": "127.0.0.16/28"}])),
        ),
        backend(
            "certified",
            "web",
            at.web,
            "https",
            (json!({"skipClientCertValidation": false}), json!([principal.clone()])),
        ),
        backend(
            "no-certificate",
            "api",
            at.api,
            "https",
            (
                json!({"skipClientCertValidation": true, "sniHosts": ["api.example.com"]}),
                json!([{"kind": "IPRange", "name": "127.0.0.9/32"}]),
            ),
        ),
        backend(
            "bytes",
            "db",
            at.db,
            "tcp",
            (Value::Null, json!([{"kind": "IPRange", "name": "127.0.0.9/32"}])),
        ),
        backend(
            "bytes-certified",
            "db",
            at.db,
            "https",
            (json!({"skipClientCertValidation": false}), json!([principal])),
        ),
        backend(
            "nobody",
            "shut",
            at.shut,
            "http",
            (Value::Null, json!([{"kind": "Service", "name": "gone", "namespace": "ingress"}])),
        ),
    ]
}

/// A caller: its address, the service account of its certificate if it speaks TLS with one, the name that it asks for.
type Who<'a> = (&'a str, Option<(Option<&'a str>, &'a str)>);

/// Every caller and port, and whether it gets through.
fn table(at: &Ports) -> Vec<(Who<'static>, u16, bool)> {
    let tls = |account: Option<&'static str>, sni: &'static str| Some((account, sni));
    vec![
        (("127.0.0.9", None), at.web, true),
        (("127.0.0.17", None), at.web, true),
        (("127.0.0.10", None), at.web, false),
        (("127.0.0.10", tls(Some("gateway"), "x")), at.web, true),
        (("127.0.0.9", tls(Some("other"), "x")), at.web, false),
        (("127.0.0.9", tls(None, "x")), at.web, false),
        (("127.0.0.9", tls(None, "api.example.com")), at.api, true),
        (("127.0.0.9", tls(Some("other"), "api.example.com")), at.api, true),
        (("127.0.0.9", tls(None, "x.example.com")), at.api, false),
        (("127.0.0.10", tls(None, "api.example.com")), at.api, false),
        (("127.0.0.9", None), at.api, false),
        (("127.0.0.9", None), at.db, true),
        (("127.0.0.10", None), at.db, false),
        (("127.0.0.10", tls(Some("gateway"), "x")), at.db, true),
        (("127.0.0.9", tls(Some("other"), "x")), at.db, false),
        (("127.0.0.9", tls(None, "x")), at.db, false),
        (("127.0.0.9", None), at.shut, false),
        (("127.0.0.9", tls(Some("gateway"), "x")), at.shut, false),
    ]
}

fn call(who: Who<'_>, port: u16, tcp: bool) -> Call {
    let (address, tls) = who;
    let tls = tls.map(|(account, sni)| StrangerTls {
        name: account.map(|account| crds::labels::spiffe_id("cluster.local", "ingress", account)),
        server_name: Some(sni.to_owned()),
    });
    let http = Request::Http { method: "GET".to_owned(), path: "/".to_owned(), headers: [].into() };
    Call {
        from: Caller::Outside(Stranger { address: address.parse().unwrap(), tls }),
        to: Callee::Pod { namespace: NS.to_owned(), name: "v1".to_owned(), port },
        request: if tcp { Request::Tcp } else { http },
    }
}

fn server(version: &str, mesh: &Mesh, identities: &Identities, at: &Ports) -> (Envoy, TempDir) {
    let secrets = identities.issue(NS, "bookstore");
    let mut config = config(mesh, "v1", &secrets);
    config.listen("inbound", &[at.web, at.api, at.db, at.shut]);
    config.lead("inbound", app());
    (Envoy::start(version, &config, at.web), secrets)
}

fn get_through(version: &str, mesh: &Mesh, at: &Ports, table: &[(Who<'_>, u16, bool)]) {
    let identities = Identities::new();
    let (_server, _secrets) = server(version, mesh, &identities, at);
    let folders: Vec<_> = ["gateway", "other"].map(|name| (name, identities.issue("ingress", name))).into();
    let legs: Vec<Leg<'_>> = table
        .iter()
        .map(|((from, tls), to, _)| Leg {
            from: from.parse::<IpAddr>().unwrap(),
            to: *to,
            tls: tls.map(|(account, sni)| {
                let folder = folders.iter().find(|(name, _)| Some(*name) == account);
                (folder.map(|(_, folder)| folder), sni)
            }),
        })
        .collect();
    let (_gateway, ports) = gateway(version, &legs);
    for ((who, to, expected), port) in table.iter().zip(ports) {
        let status = ask(port, "GET", "/", &[]).map(|(status, _)| status);
        assert_eq!(status == Some(200), *expected, "{version} {who:?} {to}: {status:?}");
        let verdict = decide(mesh, &call(*who, *to, *to == at.db));
        assert_eq!(matches!(verdict, Verdict::Allowed(_)), *expected, "{who:?} {to} {verdict:?}");
    }
}

fn some_ports() -> Ports {
    Ports { web: free_port(), api: free_port(), db: free_port(), shut: free_port() }
}

#[test]
fn what_is_opened_is_reached_and_nothing_else_and_decide_agrees() {
    for version in VERSIONS {
        let at = some_ports();
        let mesh = mesh(objects(&at));
        let problems: Vec<_> = mesh.problems().into_iter().map(|problem| problem.object.name).collect();
        assert_eq!(problems, ["nobody"]);
        get_through(version, &mesh, &at, &table(&at));
    }
}

/// `AllowAll` is for members of the mesh: who comes without a name still needs an IngressBackend.
#[test]
fn allowing_all_opens_nothing_to_strangers() {
    for version in VERSIONS {
        let at = some_ports();
        let settings = settings_with(Mtls::Strict, Authorization::AllowAll, Egress::Deny);
        let mesh = mesh_of(settings, objects(&at));
        let table: Vec<_> = table(&at)
            .into_iter()
            .map(|(who, port, open)| {
                let member = matches!(who.1, Some((Some(_), _)));
                (who, port, open || member)
            })
            .collect();
        get_through(version, &mesh, &at, &table);
    }
}

/// A port that takes plaintext callers anyway still takes all of them when an IngressBackend speaks of some.
#[test]
fn an_ingress_backend_closes_nothing() {
    for version in VERSIONS {
        let at = some_ports();
        let settings = settings_with(Mtls::Permissive, Authorization::AllowAll, Egress::Deny);
        let mesh = mesh_of(settings, objects(&at));
        let table: Vec<_> = table(&at)
            .into_iter()
            .map(|(who, port, open)| {
                let open = open || !matches!(who.1, Some((None, _)));
                (who, port, open)
            })
            .collect();
        get_through(version, &mesh, &at, &table);
    }
}

/// Without its IngressBackends the pod is as closed as it was before.
#[test]
fn what_is_deleted_is_closed_again() {
    for version in VERSIONS {
        let at = some_ports();
        let mut world = mesh(objects(&at));
        for object in objects(&at) {
            let reference = object.reference();
            if reference.kind == mesh::Kind::IngressBackend {
                world.delete(&reference);
            }
        }
        let table: Vec<_> = table(&at).into_iter().map(|(who, port, _)| (who, port, false)).collect();
        get_through(version, &world, &at, &table);
    }
}

/// A server that speaks first tells its name to those only who may connect.
#[test]
fn strangers_hear_no_greeting() {
    for version in VERSIONS {
        let at = some_ports();
        let mesh = mesh(objects(&at));
        let identities = Identities::new();
        let secrets = identities.issue(NS, "bookstore");
        let mut config = config(&mesh, "v1", &secrets);
        config.listen("inbound", &[at.web, at.api, at.db, at.shut]);
        config.lead("inbound", serve(banner));
        let _server = Envoy::start(version, &config, at.web);
        let [gateway_, other] = ["gateway", "other"].map(|name| identities.issue("ingress", name));
        let leg = |from: &str, tls| Leg { from: from.parse::<IpAddr>().unwrap(), to: at.db, tls };
        let legs = [
            (leg("127.0.0.9", None), true),
            (leg("127.0.0.10", None), false),
            (leg("127.0.0.10", Some((Some(&gateway_), "x"))), true),
            (leg("127.0.0.9", Some((Some(&other), "x"))), false),
        ];
        let (_gateway, ports) = gateway(version, &legs.map(|(leg, _)| leg));
        for ((place, (_, expected)), port) in legs.iter().enumerate().zip(ports) {
            let mut stream = connect(("127.0.0.1", port));
            if !expected {
                // Nothing comes, however long one waits.
                stream.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
            }
            let greeting = read_line(&mut stream);
            assert_eq!(greeting == "220 ready", *expected, "{version} {place}: {greeting:?}");
        }
    }
}
