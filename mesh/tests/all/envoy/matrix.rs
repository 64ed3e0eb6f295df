//! `decide` equals reality: every pair of a dozen workloads, every kind of port, generated policies of every kind, and
//! real Envoys that must agree on every cell.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use envoys::{Block, Config, Envoy, Identities, VERSIONS};
use mesh::decide::{Because, Callee, Caller, Request};
use mesh::{Call, Mesh, Object, Verdict, decide};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::apps::{app, ask_at, send_line_at};
use crate::world::{mesh_of, namespace, pod_of, pod_value, policy_with, settings};

const WORKLOADS: u8 = 12;
/// Declared HTTP, declared bytes, and a port that says nothing.
const PORTS: [(&str, u16, u16); 3] = [("http", 80, 8080), ("tcp", 5432, 5432), ("", 90, 9090)];
/// Method, path and headers.
type Asked = (&'static str, &'static str, &'static [(&'static str, &'static str)]);
/// Paths, and a header that some rules ask for.
const REQUESTS: [Asked; 4] =
    [("GET", "/a", &[]), ("GET", "/a/x", &[("x-v", "12")]), ("POST", "/b?q=1", &[]), ("DELETE", "/z", &[])];

/// Numbers that are the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Where a workload lives. Two of them share a service account.
fn home(workload: u8) -> (&'static str, String, String) {
    let namespace = if workload.is_multiple_of(3) { "east" } else { "west" };
    let account = if workload == 10 { 7 } else { workload };
    (namespace, format!("w{workload}"), format!("a{account}"))
}

fn workload(number: u8) -> Vec<Object> {
    let (namespace, name, account) = home(number);
    let mut pod = pod_value(&name, &account, &name);
    pod["metadata"]["namespace"] = json!(namespace);
    let mut objects = vec![pod_of(pod)];
    for (port_name, port, target) in PORTS {
        let service = format!("{name}-{port}");
        let value = json!({
            "metadata": {"name": service, "namespace": namespace},
            "spec": {
                "clusterIP": format!("10.{}.0.{number}", port % 256), "selector": {"app": name},
                "ports": [{"name": port_name, "port": port, "targetPort": target}],
            },
        });
        objects.push(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(value).unwrap().into());
        let value = json!({
            "metadata": {
                "name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4", "ports": [{"name": port_name, "port": target}],
            "endpoints": [{"addresses": [format!("10.77.0.{number}")], "targetRef": {"kind": "Pod", "name": name}}],
        });
        let slice = serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap();
        objects.push(slice.into());
    }
    objects
}

fn rule(numbers: &mut Numbers) -> Value {
    match numbers.below(8) {
        0 => json!({"kind": "HTTPRouteGroup", "name": "read"}),
        1 => json!({"kind": "HTTPRouteGroup", "name": "read", "matches": ["header"]}),
        2 => json!({"kind": "HTTPRouteGroup", "name": "write"}),
        3 => json!({"kind": "HTTPRouteGroup", "name": "gone"}),
        4 => json!({"kind": "TCPRoute", "name": "any"}),
        5 => json!({"kind": "TCPRoute", "name": "undeclared"}),
        6 => json!({"kind": "TCPRoute", "name": "web"}),
        _ => json!({"kind": "TCPRoute", "name": "gone"}),
    }
}

fn policies(numbers: &mut Numbers) -> Vec<Object> {
    let mut objects = Vec::new();
    for space in ["east", "west"] {
        let mut add = |kind: &str, name: &str, spec: Value| {
            objects.push(policy_with(kind, name, space, &json!({}), spec));
        };
        add(
            "HTTPRouteGroup",
            "read",
            json!({"matches": [
                {"name": "path", "pathRegex": "/a", "methods": ["GET", "HEAD"]}, {"name": "header", "headers": [{"X-V": "1."}]},
            ]}),
        );
        add(
            "HTTPRouteGroup",
            "write",
            json!({"matches": [{"name": "b", "pathRegex": "/b", "methods": ["POST"]}]}),
        );
        for (name, ports) in [("any", json!([])), ("undeclared", json!([9090])), ("web", json!([8080, 5432]))]
        {
            add("TCPRoute", name, json!({"matches": {"ports": ports}}));
        }
        let mode = |name: &str, mtls: &str, authorization: &str| json!({"selector": {"matchLabels": {"app": name}}, "mtls": mtls, "authorization": authorization});
        add("MeshPolicy", "p1", mode("w1", "Permissive", "Enforce"));
        add("MeshPolicy", "p2", mode("w2", "Strict", "Audit"));
        add("MeshPolicy", "p3", mode("w3", "Permissive", "AllowAll"));
        add("MeshPolicy", "p4", mode("w4", "Permissive", "Audit"));
        add("MeshPolicy", "p6", mode("w6", "Strict", "AllowAll"));
    }
    for number in 0..24 {
        let (space, _, account) = home(u8::try_from(numbers.below(WORKLOADS.into())).unwrap());
        let sources: Vec<_> = (0..WORKLOADS).filter(|_| numbers.one_in(4)).map(home).collect();
        let subject = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
        let rules: Vec<_> = (0..=numbers.below(3)).map(|_| rule(numbers)).collect();
        let spec = json!({
            "destination": subject(space, &account), "rules": rules,
            "sources": sources.iter().map(|(space, _, name)| subject(space, name)).collect::<Vec<_>>(),
        });
        objects.push(policy_with("TrafficTarget", &format!("t{number}"), space, &json!({}), spec));
    }
    objects
}

fn world(seed: u64) -> Mesh {
    let workloads = (0..WORKLOADS).flat_map(workload);
    let spaces = ["east", "west"].map(|name| namespace(name, "demo"));
    mesh_of(settings(), spaces.into_iter().chain(workloads).chain(policies(&mut Numbers(seed))))
}

/// One workload's sidecar, and where its application finds the others.
struct Sidecar {
    envoy: Envoy,
    _secrets: TempDir,
    ways: BTreeMap<(u8, u16), SocketAddr>,
}

/// A workload's address is its number.
fn at(block: Block, workload: u8, port: u16) -> SocketAddr {
    block.at(workload + 1, port)
}

/// What all sidecars of one round share.
struct Round<'a> {
    version: &'a str,
    block: Block,
    mesh: &'a Mesh,
    identities: Identities,
    app: u16,
}

fn sidecar(round: &Round<'_>, number: u8) -> Sidecar {
    let Round { version, block, mesh, identities, app } = round;
    let at = |workload, port| at(*block, workload, port);
    let (space, name, account) = home(number);
    let secrets = identities.issue(space, &account);
    let view = mesh::view(mesh, &mesh.audience(space, &name).unwrap());
    let snapshot = mesh::render::render_with(&view, secrets.path().to_str().unwrap());
    let mut config = Config::of(&snapshot).inlined_at(&snapshot, |endpoint| match endpoint.ip() {
        std::net::IpAddr::V4(ip) => at(ip.octets()[3], endpoint.port()),
        std::net::IpAddr::V6(_) => panic!("{endpoint}"),
    });
    let mut places =
        BTreeMap::from([("inbound".to_owned(), PORTS.map(|(_, _, port)| at(number, port)).to_vec())]);
    let mut ways = BTreeMap::new();
    for callee in 0..WORKLOADS {
        let (space, name, _) = home(callee);
        for (index, (_, port, target)) in (0..).zip(PORTS) {
            let way = at(number, 20_000 + 10 * u16::from(callee) + index);
            let mut listener = format!("out|{space}|{name}-{port}|{port}");
            if !config.listeners.iter().any(|one| one.name == listener) {
                listener = format!("passthrough to {name} at {target}");
                config.passthrough(&listener, at(callee, target));
            }
            places.insert(listener, vec![way]);
            ways.insert((callee, target), way);
        }
    }
    config.place_at(&places);
    for cluster in ["inbound", "inbound-h2"] {
        config.lead(cluster, *app);
    }
    // Nothing listens to what is not there.
    config.lead("meshpassthrough", 1);
    Sidecar { envoy: Envoy::spawn(version, &config), _secrets: secrets, ways }
}

fn call(from: Caller, callee: u8, port: u16, request: Request) -> Call {
    let (namespace, name, _) = home(callee);
    Call { from, to: Callee::Pod { namespace: namespace.to_owned(), name, port }, request }
}

/// Everything that one caller can ask of one port: the question, and what really happens.
fn asked(way: SocketAddr) -> Vec<(Request, bool)> {
    let mut seen: Vec<_> = REQUESTS
        .iter()
        .map(|(method, path, headers)| {
            let pairs = headers.iter().chain(&[("host", "bookstore")]);
            let request = Request::Http {
                method: (*method).to_owned(),
                path: (*path).to_owned(),
                headers: pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            };
            let answer = ask_at(way, method, path, headers);
            (request, answer.is_some_and(|(status, _)| status == 200))
        })
        .collect();
    // The application answers anything that ends in an empty line like this; Envoy answers what is not HTTP with 400.
    seen.push((Request::Tcp, send_line_at(way, "HELLO there\r\n").contains(" 200 ")));
    seen
}

fn compare(
    mesh: &Mesh,
    from: &Caller,
    ways: &BTreeMap<(u8, u16), SocketAddr>,
) -> (Vec<String>, BTreeSet<bool>) {
    let (mut wrong, mut kinds) = (Vec::new(), BTreeSet::new());
    for ((callee, port), way) in ways {
        for (request, really) in asked(*way) {
            let verdict = decide(mesh, &call(from.clone(), *callee, *port, request.clone()));
            let said = matches!(verdict, Verdict::Allowed(_));
            kinds.insert(said);
            if said != really {
                wrong.push(format!("{from:?} to w{callee}:{port} {request:?}: {verdict:?}, really {really}"));
            }
        }
    }
    (wrong, kinds)
}

#[test]
fn every_cell_is_as_decide_says() {
    for (seed, version) in (7..).zip(VERSIONS) {
        let mesh = world(seed);
        let round = Round {
            version,
            block: Block::reserve(),
            mesh: &mesh,
            identities: Identities::new(),
            app: app(),
        };
        let at = |workload, port| at(round.block, workload, port);
        let mut sidecars: Vec<_> = (0..WORKLOADS).map(|number| sidecar(&round, number)).collect();
        for (number, sidecar) in (0..).zip(&mut sidecars) {
            sidecar.envoy.until_listening(version, at(number, 8080));
        }
        let pod = |number| {
            let (namespace, name, _) = home(number);
            Caller::Pod { namespace: namespace.to_owned(), name }
        };
        let direct =
            (0..WORKLOADS).flat_map(|to| PORTS.map(|(_, _, port)| ((to, port), at(to, port)))).collect();
        let callers = (0..).zip(&sidecars).map(|(number, sidecar)| (pod(number), &sidecar.ways));
        let callers: Vec<_> = callers.chain([(Caller::Plaintext, &direct)]).collect();
        let found = std::thread::scope(|scope| {
            let run = |(from, ways)| {
                scope.spawn({
                    let mesh = &mesh;
                    move || compare(mesh, &from, ways)
                })
            };
            let threads: Vec<_> = callers.into_iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let wrong: Vec<_> = found.iter().flat_map(|(wrong, _)| wrong).collect();
        assert!(wrong.is_empty(), "Envoy {version}: {} cells: {wrong:#?}", wrong.len());
        assert!(found.iter().all(|(_, kinds)| kinds.len() == 2), "both answers were seen by every caller");
    }
}

/// The answer names what allows: without these objects the call is denied, and without any others it is not.
#[test]
fn the_answer_names_what_allows() {
    let mut allowed = 0;
    for seed in 1..4 {
        let mesh = world(seed);
        let targets: BTreeSet<_> = policies(&mut Numbers(seed)).iter().map(Object::reference).collect();
        let targets = targets.into_iter().filter(|one| one.kind == mesh::Kind::TrafficTarget);
        let targets: Vec<_> = targets.collect();
        for (from, callee) in (0..WORKLOADS).flat_map(|from| (0..WORKLOADS).map(move |to| (from, to))) {
            let (namespace, name, _) = home(from);
            let from = Caller::Pod { namespace: namespace.to_owned(), name };
            let request =
                Request::Http { method: "GET".to_owned(), path: "/a".to_owned(), headers: BTreeMap::new() };
            for (port, request) in
                [(8080, request.clone()), (9090, request), (5432, Request::Tcp), (9090, Request::Tcp)]
            {
                let call = call(from.clone(), callee, port, request);
                let Verdict::Allowed(Because::Policies(named)) = decide(&mesh, &call) else { continue };
                allowed += 1;
                let without = |gone: &dyn Fn(&mesh::ObjectRef) -> bool| {
                    let mut mesh = mesh.clone();
                    targets.iter().filter(|one| gone(one)).for_each(|one| drop(mesh.delete(one)));
                    matches!(decide(&mesh, &call), Verdict::Allowed(Because::Policies(_)))
                };
                assert!(!without(&|one| named.contains(one)), "{call:?}: not only {named:?}");
                assert!(without(&|one| !named.contains(one)), "{call:?}: more than {named:?}");
                assert!(
                    without(&|one| *one != named[0] && named.contains(one)),
                    "{call:?}: {} is enough",
                    named[0]
                );
            }
        }
    }
    assert!(allowed > 50, "{allowed}");
}
