//! Policies that multiply: what one tenant writes costs that tenant, in bounds, and nobody else anything.

use std::collections::BTreeSet;

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Object, Reason, Snapshot, Verdict, decide, render, view};
use serde_json::{Value, json};

use crate::world::*;

/// Most bytes that a sidecar is given, whatever its namespace's policies say: the budgets and what encoding adds.
const MOST: usize = 24 << 20;

fn snapshot(mesh: &Mesh, namespace: &str, pod: &str) -> Snapshot {
    render(&view(mesh, &mesh.audience(namespace, pod).unwrap()))
}

fn bytes(snapshot: &Snapshot) -> usize {
    snapshot.resources.values().flat_map(|all| all.values()).map(|one| one.body.len()).sum()
}

/// Names of what is too large.
fn too_large(mesh: &Mesh) -> BTreeSet<String> {
    let problems = mesh.problems().into_iter().filter(|one| one.reason == Reason::TooLarge);
    problems.map(|one| one.object.to_string()).collect()
}

fn group(name: &str, matches: usize) -> Object {
    let matches: Vec<_> = (0..matches)
        .map(|n| json!({"name": format!("m{n}"), "pathRegex": format!("/{name}/{n}/{}", "x".repeat(900))}))
        .collect();
    policy("HTTPRouteGroup", name, json!({"matches": matches}))
}

fn egress(name: &str, hosts: usize, ranges: usize, ports: u16, groups: &[&str]) -> Object {
    let references: Vec<_> = groups
        .iter()
        .map(|name| json!({"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": name}))
        .collect();
    let ports: Vec<_> = (0..ports).map(|n| json!({"number": 80 + n, "protocol": "http"})).collect();
    let hosts: Vec<_> = (0..hosts).map(|n| format!("h{n}.{name}.example")).collect();
    let ranges: Vec<_> = (0..ranges).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    policy(
        "Egress",
        name,
        json!({
            "sources": [{"kind": "ServiceAccount", "name": "buyer"}], "hosts": hosts, "ipAddresses": ranges,
            "ports": ports, "matches": references,
        }),
    )
}

fn leaving(host: &str) -> Call {
    Call {
        from: Caller::ServiceAccount(ServiceAccount::new(NS, "buyer")),
        to: Callee::Outside { host: Some(host.to_owned()), address: "10.0.0.1".parse().ok(), port: 80 },
        request: Request::Http { method: "GET".to_owned(), path: "/".to_owned(), headers: [].into() },
    }
}

fn allowed(mesh: &Mesh, call: &Call) -> bool {
    matches!(decide(mesh, call), Verdict::Allowed(_))
}

/// One range, at which all that is open everywhere is open too.
fn ranged(n: usize) -> Object {
    policy(
        "Egress",
        &format!("r{n}"),
        json!({
            "sources": [{"kind": "ServiceAccount", "name": "buyer"}], "hosts": [format!("r{n}.example")],
            "ipAddresses": [format!("10.77.{n}.0/24")], "ports": [{"number": 80, "protocol": "http"}],
        }),
    )
}

/// Each of them would be many megabytes or gigabytes, if it were multiplied out.
fn bombs() -> Vec<(&'static str, Vec<Object>, BTreeSet<String>)> {
    let name = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<BTreeSet<_>>();
    let groups: Vec<_> = (0..60).map(|n| format!("g{n}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let groups_too = |objects: Vec<Object>| -> Vec<Object> {
        groups.iter().map(|name| group(name, 100)).chain(objects).collect()
    };
    let sources: Vec<_> = (0..1000).map(|n| format!("caller-{n}")).collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let rules: Vec<_> = groups.iter().map(|name| json!({"kind": "HTTPRouteGroup", "name": name})).collect();
    let many_ports: Vec<_> = (1..=2000).map(|n| ("http", n, json!(n))).collect();
    let crowd: Vec<Object> = (0..250).map(|n| pod(&format!("crowd-{n}"), "crowd", "crowd")).collect();
    let addresses: Vec<_> = (0..250).map(|n| (format!("crowd-{n}"), format!("10.3.0.{n}"))).collect();
    let endpoints: Vec<_> = addresses.iter().map(|(pod, ip)| (pod.as_str(), ip.as_str(), true)).collect();
    let named_ports: Vec<_> = many_ports.iter().map(|(name, port, _)| (*name, *port)).take(1).collect();
    let headless = service("crowd", "None", json!({"app": "crowd"}), &many_ports);
    let backends: Vec<_> = (0..200)
        .map(|n| json!({"name": "bookstore", "port": {"number": 8080, "protocol": "https"}, "tls": {"sniHosts": [format!("s{n}.example")]}}))
        .collect();
    let matches: Vec<_> = groups
        .iter()
        .map(|name| json!({"apiGroup": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup", "name": name}))
        .collect();
    let ingress = policy(
        "IngressBackend",
        "bomb",
        json!({"backends": backends, "matches": matches, "sources": [{"kind": "AuthenticatedPrincipal", "name": "*"}]}),
    );
    let split = policy(
        "TrafficSplit",
        "bomb",
        json!({
            "service": "bookstore", "backends": [{"service": "bookstore-v1", "weight": 1}, {"service": "bookstore-v2", "weight": 1}],
            "matches": groups.iter().map(|name| json!({"kind": "HTTPRouteGroup", "name": name})).collect::<Vec<_>>(),
        }),
    );
    vec![
        (
            "ranges and hosts",
            (0..250).map(ranged).chain([egress("bomb", 200, 0, 20, &[])]).collect(),
            name(&["Egress shop/bomb"]),
        ),
        (
            "hosts and matches",
            groups_too(vec![egress("bomb", 256, 0, 64, &groups)]),
            name(&["Egress shop/bomb"]),
        ),
        (
            "sources and matches",
            groups_too(vec![target("bomb", "bookstore", &sources, json!(rules))]),
            name(&["TrafficTarget shop/bomb"]),
        ),
        ("backends and matches", groups_too(vec![ingress]), name(&["IngressBackend shop/bomb"])),
        ("matches of a split", groups_too(vec![split]), name(&["TrafficSplit shop/bomb"])),
        (
            "ports and pods",
            crowd
                .into_iter()
                .chain([
                    headless,
                    slice("crowd", &named_ports, &endpoints),
                    target("c", "crowd", &["buyer"], http("books")),
                ])
                .collect(),
            name(&["Service shop/crowd"]),
        ),
    ]
}

fn with(objects: Vec<Object>) -> Mesh {
    let settings = settings_with(Mtls::Strict, Authorization::Enforce, Egress::Deny);
    mesh_of(settings, bookstore().into_iter().chain(modest()).chain(objects))
}

/// What the same tenant and another had before.
fn modest() -> Vec<Object> {
    let mut neighbour = pod_value("neighbour-1", "neighbour", "neighbour");
    neighbour["metadata"]["namespace"] = json!("next-door");
    vec![egress("modest", 2, 1, 1, &[]), namespace("next-door", "demo"), pod_of(neighbour)]
}

#[test]
fn what_is_too_large_is_left_out_and_named_and_everything_else_stays() {
    let calm = with(vec![]);
    for (what, objects, named) in bombs() {
        let mesh = with(objects.clone());
        for (namespace, pod) in [(NS, "buyer-1"), (NS, "v1"), ("next-door", "neighbour-1")] {
            let size = bytes(&snapshot(&mesh, namespace, pod));
            assert!(size < MOST, "{what}: {size} bytes for {pod}");
        }
        assert_eq!(too_large(&mesh), named, "{what}");
        // Nobody else gets anything else.
        let neighbour = |mesh: &Mesh| snapshot(mesh, "next-door", "neighbour-1");
        assert_eq!(neighbour(&mesh), neighbour(&calm), "{what}");
        assert!(allowed(&mesh, &request("buyer", "v1", "GET", "/books", &[])), "{what}");
        assert!(allowed(&mesh, &leaving("h0.modest.example")), "{what}");
        assert!(!allowed(&mesh, &leaving("h0.bomb.example")), "{what}");
        // The same whatever came first.
        let backwards = with(objects.into_iter().rev().collect());
        assert_eq!(backwards.problems(), mesh.problems(), "{what}");
        for pod in ["buyer-1", "v1"] {
            assert_eq!(snapshot(&backwards, NS, pod), snapshot(&mesh, NS, pod), "{what}");
        }
    }
}

/// What is over a budget opens nothing, and what takes something away counts at once, over the budget or not.
#[test]
fn a_budget_holds_nothing_open() {
    let names: Vec<_> = (0..1000).map(|n| format!("caller-{n}")).collect();
    let callers: Vec<&str> = names.iter().map(String::as_str).collect();
    let large = |n: usize| target(&format!("large-{n}"), "bookstore", &callers, http("books"));
    let mut mesh = with((0..80).map(large).collect());
    let left_out = too_large(&mesh);
    assert!(!left_out.is_empty() && left_out.len() < 80, "{left_out:?}");
    let buyer = request("buyer", "v1", "GET", "/books", &[]);
    let caller = request("caller-7", "v1", "GET", "/books", &[]);
    assert!(allowed(&mesh, &buyer) && allowed(&mesh, &caller));
    mesh.delete(&target("buy", "bookstore", &["buyer"], http("books")).reference());
    assert!(!allowed(&mesh, &buyer));
    // All that fit are taken back; those that are left out fit now, and one by one they go too.
    for n in 0..80 {
        assert!(allowed(&mesh, &caller), "{n}");
        mesh.delete(&large(n).reference());
    }
    assert!(!allowed(&mesh, &caller));
    assert_eq!(too_large(&mesh), BTreeSet::new());
}

/// Where everything may leave the mesh, an Egress keeps requests back that it does not name: leaving one out must not let
/// them go.
#[test]
fn what_an_egress_keeps_back_stays_so_when_it_is_left_out() {
    let world = |egress_mode, groups: usize| {
        let groups: Vec<_> = (0..groups).map(|n| format!("g{n}")).collect();
        let names: Vec<&str> = groups.iter().map(String::as_str).collect();
        let objects = bookstore().into_iter().chain([egress("guard", 256, 0, 2, &names)]);
        let objects = objects.chain(groups.iter().map(|name| group(name, 100)));
        mesh_of(settings_with(Mtls::Strict, Authorization::Enforce, egress_mode), objects)
    };
    for groups in [1, 60] {
        for mode in [Egress::Allow, Egress::Deny] {
            let mesh = world(mode, groups);
            assert!(!allowed(&mesh, &leaving("h0.guard.example")), "{groups} {mode:?}");
            let elsewhere =
                Call { to: Callee::Outside { host: None, address: None, port: 443 }, ..leaving("x") };
            assert_eq!(allowed(&mesh, &elsewhere), mode == Egress::Allow, "{groups} {mode:?}");
        }
    }
    let view = view(&world(Egress::Allow, 60), &world(Egress::Allow, 60).audience(NS, "buyer-1").unwrap());
    let shut: Vec<_> =
        view.outbound.egress.iter().filter(|(_, port)| port.shut).map(|(port, _)| *port).collect();
    assert_eq!(shut, [80, 81]);
}

/// Ranges at which the same is open are one scope, however many they are, and hosts of which the same is open are one
/// virtual host.
#[test]
fn ranges_and_hosts_do_not_repeat_what_is_open() {
    let size = |hosts, ranges| {
        let mesh = with(vec![group("g", 100), egress("one", hosts, ranges, 1, &["g"])]);
        assert_eq!(too_large(&mesh), BTreeSet::new());
        let snapshot = snapshot(&mesh, NS, "buyer-1");
        let routes = snapshot.of(mesh::ResourceType::Route).keys().filter(|name| name.starts_with("egress|"));
        assert!(routes.count() <= 2, "one range is another Egress's too");
        bytes(&snapshot)
    };
    let (one, many) = (size(1, 1), size(200, 200));
    assert!(many < one + 200 * 1024, "{one} {many}");
}

/// An Egress within another's range opens there what both open, and the range around it what the outer one opens.
#[test]
fn nested_ranges_carry_what_is_open_around_them() {
    let one = |name: &str, range: &str| {
        let spec = json!({
            "sources": [{"kind": "ServiceAccount", "name": "buyer"}], "hosts": [format!("{name}.example")],
            "ipAddresses": [range], "ports": [{"number": 80, "protocol": "http"}],
        });
        policy("Egress", name, spec)
    };
    let mesh =
        with(vec![one("outer", "10.0.0.0/8"), one("inner", "10.1.0.0/16"), one("beside", "10.2.0.0/16")]);
    let view = view(&mesh, &mesh.audience(NS, "buyer-1").unwrap());
    let port: Value = serde_json::to_value(&view.outbound.egress[&80]).unwrap();
    let scopes = port["scopes"].as_array().unwrap().iter();
    let hosts = |scope: &Value| -> Vec<String> {
        let all = scope["http"].as_array().unwrap().iter().flat_map(|one| one["hosts"].as_array().unwrap());
        all.map(|host| host.as_str().unwrap().to_owned()).filter(|host| !host.contains("modest")).collect()
    };
    let found: Vec<_> = scopes.map(|scope| (scope["at"].to_string(), hosts(scope))).collect();
    let expected = [
        (r#"["10.0.0.0/8"]"#, vec!["outer.example"]),
        (r#"["10.0.0.0/24"]"#, vec!["outer.example"]),
        (r#"["10.1.0.0/16"]"#, vec!["inner.example", "outer.example"]),
        (r#"["10.2.0.0/16"]"#, vec!["beside.example", "outer.example"]),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(at, hosts)| (at.to_owned(), hosts.into_iter().map(str::to_owned).collect::<Vec<_>>()))
        .collect();
    assert_eq!(
        found
            .into_iter()
            .map(|(at, mut hosts)| {
                hosts.sort();
                (at, hosts)
            })
            .collect::<Vec<_>>(),
        expected
    );
}
