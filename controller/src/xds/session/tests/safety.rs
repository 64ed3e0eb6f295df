//! Whatever some sidecars say, no other ever holds rules that let through what the mesh forbids: the real model, its
//! real rules, and streams of several service accounts of which one does what it likes.

use std::collections::{BTreeMap, VecDeque};

use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::RbacPerRoute;
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use mesh::decide::{Callee, Caller};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Object, Settings, Verdict, decide};
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};

use super::canary::{Fleet, PATIENCE};
use super::*;

/// Pods and their service accounts. The first one is the attacker's; the other thief has another service account of it.
const PODS: [(&str, &str); 6] = [
    ("thief-1", "thief"),
    ("thief-2", "other-thief"),
    ("store-1", "store"),
    ("store-2", "store"),
    ("cart-1", "cart"),
    ("buyer-1", "buyer"),
];
const FIRST_HONEST: usize = 2;
const ACCOUNTS: [&str; 5] = ["thief", "other-thief", "store", "cart", "buyer"];
const METHODS: [&str; 2] = ["GET", "POST"];

fn object<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Object {
    serde_json::from_value::<T>(value).unwrap().into()
}

fn smi(version: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

fn world() -> Mesh {
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
    mesh.synced();
    mesh
}

/// What somebody changes in the mesh. A thief can do no other than others: policies are the mesh's.
#[derive(Debug, Clone, Copy)]
enum Edit {
    Grant { from: usize, to: usize, writes: bool },
    Revoke { from: usize, to: usize },
    AllowAll(bool),
    Egress(bool),
}

fn edit(mesh: &mut Mesh, edit: Edit) {
    let target = |from: usize, to: usize| format!("t-{from}-{to}");
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
        Edit::Egress(true) => {
            let spec = json!({
                "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "shop"}],
                "hosts": ["example.com"], "ports": [{"number": 443, "protocol": "https"}],
            });
            mesh.apply(object::<crds::Egress>(smi(
                "policy.openservicemesh.io/v1alpha1",
                "Egress",
                "out",
                &spec,
            )));
        }
        Edit::Egress(false) => {
            mesh.delete(&policy(mesh::Kind::Egress, "out"));
        }
    }
}

/// What the Envoy of a pod does.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Takes the next response; a thief may refuse it, or say what it likes.
    Answer { lies: bool, refuses: bool },
    /// Goes away and comes back; a thief says that it holds whatever it likes.
    Reconnect { invents: u8, envoy: u32 },
    /// Looks whether it may go on.
    Wake,
    /// Time goes by for all.
    Time,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let account = || 0..ACCOUNTS.len();
    prop_oneof![
        3 => (account(), account(), any::<bool>()).prop_map(|(from, to, writes)| Edit::Grant { from, to, writes }),
        3 => (account(), account()).prop_map(|(from, to)| Edit::Revoke { from, to }),
        1 => any::<bool>().prop_map(Edit::AllowAll),
        1 => any::<bool>().prop_map(Edit::Egress),
    ]
}

fn any_step() -> impl Strategy<Value = Result<Edit, (usize, Act)>> {
    let act = prop_oneof![
        6 => (any::<bool>(), any::<bool>()).prop_map(|(lies, refuses)| Act::Answer { lies, refuses }),
        1 => (any::<u8>(), 0..4_u32).prop_map(|(invents, envoy)| Act::Reconnect { invents, envoy }),
        1 => Just(Act::Wake),
        1 => Just(Act::Time),
    ];
    prop_oneof![1 => any_edit().prop_map(Ok), 6 => (0..PODS.len(), act).prop_map(Err)]
}

/// Type and name to version and bytes.
type Holds = BTreeMap<(ResourceType, String), (String, Bytes)>;

/// One pod's Envoy, and the stream that it has.
struct Pod {
    number: usize,
    script: Script,
    queue: VecDeque<(usize, DeltaResponse)>,
    holds: Holds,
    /// The state of the mesh that the last acknowledged response of a type was made of.
    since: BTreeMap<ResourceType, usize>,
}

/// All of it.
struct Test {
    mesh: Mesh,
    fleet: Fleet,
    pods: Vec<Pod>,
    /// The states of the mesh so far: what may be called, by pod, caller and method; and what each pod was to hold.
    allowed: Vec<BTreeMap<(usize, &'static str, &'static str), bool>>,
    meant: Vec<Vec<BTreeMap<(ResourceType, String), String>>>,
}

fn who(number: usize, envoy: u32) -> Who<'static> {
    let (proxy, account) = PODS[number];
    Who { account, proxy, envoy: SemanticVersion { major: envoy, ..POD.envoy } }
}

fn say(mesh: &Mesh, number: usize, served: &Served) -> (Delta, BTreeMap<(ResourceType, String), String>) {
    let audience = mesh.audience("shop", PODS[number].0).unwrap();
    let snapshot = mesh::render(&mesh::view(mesh, &audience));
    let mut delta = delta(served, &[]);
    let mut meant = BTreeMap::new();
    for kind in ResourceType::ALL {
        for (name, resource) in snapshot.of(kind) {
            delta.insert((kind, name.as_str().into()), Some(Arc::new(resource.clone())));
            meant.insert((kind, name.clone()), resource.version.clone());
        }
    }
    (delta, meant)
}

impl Test {
    fn new() -> Self {
        let fleet = Fleet::new();
        let pods = (0..PODS.len()).map(|number| Pod {
            number,
            script: fleet.stream(who(number, 1), &[]),
            queue: VecDeque::new(),
            holds: Holds::new(),
            since: BTreeMap::new(),
        });
        let pods = pods.collect();
        let mut test = Self { mesh: world(), fleet, pods, allowed: Vec::new(), meant: Vec::new() };
        test.publish();
        for number in 0..PODS.len() {
            test.connect(number, 1, None);
        }
        test
    }

    fn now(&self) -> usize {
        self.allowed.len() - 1
    }

    fn publish(&mut self) {
        let mut allowed = BTreeMap::new();
        for (number, (pod, _)) in PODS.iter().enumerate() {
            for (caller, method) in ACCOUNTS.into_iter().flat_map(|one| METHODS.map(|method| (one, method))) {
                let call = Call {
                    from: Caller::ServiceAccount(ServiceAccount::new("shop", caller)),
                    to: Callee::Pod { namespace: "shop".to_owned(), name: (*pod).to_owned(), port: 8080 },
                    request: mesh::decide::Request::Http {
                        method: method.to_owned(),
                        path: "/".to_owned(),
                        headers: BTreeMap::new(),
                    },
                };
                let verdict = matches!(decide(&self.mesh, &call), Verdict::Allowed(_));
                allowed.insert((number, caller, method), verdict);
            }
        }
        self.allowed.push(allowed);
        let state = self.now();
        let mut all = Vec::new();
        for pod in &mut self.pods {
            let (delta, meant) = say(&self.mesh, pod.number, &pod.script.served);
            all.push(meant);
            let next = pod.script.served.next(delta, &mut pod.script.pool.lock());
            if let Some(next) = next {
                pod.script.served = Arc::new(next);
                let sent = pod.script.session.on_snapshot(pod.script.served.clone());
                pod.queue.extend(sent.into_iter().map(|one| (state, one)));
            }
        }
        self.meant.push(all);
    }

    fn connect(&mut self, number: usize, envoy: u32, claims: Option<Holds>) {
        let state = self.now();
        let pod = &mut self.pods[number];
        let claims = claims.unwrap_or_else(|| pod.holds.clone());
        let served = pod.script.served.clone();
        let mut script = self.fleet.stream(who(number, envoy), &[]);
        script.served = served.clone();
        script.session.on_snapshot(served);
        pod.queue.clear();
        pod.since.clear();
        for kind in ResourceType::ALL {
            let names: Vec<String> = match kind.wildcard() {
                true => Vec::new(),
                // What an Envoy asks for that knows all there is.
                false => {
                    let all = ACCOUNTS.map(|account| format!("out|shop|{account}|80"));
                    all.into_iter().chain(["in|8080".to_owned(), "egress|443".to_owned()]).collect()
                }
            };
            let held = claims.iter().filter(|((other, _), _)| *other == kind);
            let request = DeltaRequest {
                type_url: kind.type_url().to_owned(),
                resource_names_subscribe: names,
                initial_resource_versions: held
                    .map(|((_, name), (version, _))| (name.clone(), version.clone()))
                    .collect(),
                ..DeltaRequest::default()
            };
            pod.queue.extend(script.ask(&request).into_iter().map(|one| (state, one)));
        }
        pod.script = script;
    }

    fn act(&mut self, number: usize, act: Act) {
        let state = self.now();
        let thief = number < FIRST_HONEST;
        match act {
            Act::Answer { lies, refuses } => {
                let pod = &mut self.pods[number];
                let Some((made, response)) = pod.queue.pop_front() else { return };
                let kind = ResourceType::from_type_url(&response.type_url).unwrap();
                // An honest Envoy may refuse how a service is called, but understands rules.
                let rules = response.resources.iter().any(|body| enforces(kind, &read(body).name));
                let refuses = refuses && (thief || (lies && !rules && !response.resources.is_empty()));
                if !refuses || (thief && lies) {
                    take(&response, &mut pod.holds);
                    pod.since.insert(kind, made);
                }
                let request = answer(&response, refuses.then_some("no"));
                let sent = pod.script.session.on_request(&request).unwrap().responses;
                pod.queue.extend(sent.into_iter().map(|one| (state, one)));
            }
            Act::Reconnect { invents, envoy } if thief => {
                // Versions of everybody's content, current or not.
                let known = self.meant.iter().flatten().flatten().enumerate();
                let some = known.filter(|(at, _)| (at + usize::from(invents)) % 3 == 0);
                let claims = some.map(|(_, (key, version))| (key.clone(), (version.clone(), Bytes::new())));
                let claims = claims.collect();
                self.connect(number, envoy, Some(claims));
            }
            Act::Reconnect { .. } => self.connect(number, 1, None),
            Act::Wake => {
                let pod = &mut self.pods[number];
                let sent = pod.script.session.on_answer();
                pod.queue.extend(sent.into_iter().map(|one| (state, one)));
            }
            Act::Time => self.fleet.pass(PATIENCE),
        }
    }

    /// What must be true of every honest pod at any time.
    fn check(&self) -> Result<(), TestCaseError> {
        for pod in &self.pods[FIRST_HONEST..] {
            // Since its last acknowledgement of the type.
            let since = |kind| pod.since.get(&kind).copied().unwrap_or(0);
            for ((kind, name), (version, _)) in &pod.holds {
                // What leaves the mesh may wait for the pod's own word on a new cluster.
                let inbound = name.starts_with("in");
                let mut states = self.meant[if inbound { since(*kind) } else { 0 }..].iter();
                let meant = |state: &Vec<BTreeMap<_, _>>| {
                    state[pod.number].get(&(*kind, name.clone())) == Some(version)
                };
                prop_assert!(
                    !enforces(*kind, name) || states.any(meant),
                    "{} holds {} {name} that was never meant for it since",
                    PODS[pod.number].0,
                    kind.as_str()
                );
            }
            let since = since(Listener).min(since(Route));
            for (key, _) in self.allowed[0].iter().filter(|((number, ..), _)| *number == pod.number) {
                let may = self.allowed[since..].iter().any(|state| state[key]);
                prop_assert!(may || !lets_through(&pod.holds, key.1, key.2), "{key:?} is let through");
            }
        }
        Ok(())
    }

    /// Whatever the thieves do, the others come to hold what is meant for them.
    fn converges(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            for number in FIRST_HONEST..PODS.len() {
                self.act(number, Act::Answer { lies: false, refuses: false });
                self.act(number, Act::Wake);
            }
            self.act(FIRST_HONEST, Act::Time);
        }
        let meant = self.meant.last().unwrap();
        for pod in &self.pods[FIRST_HONEST..] {
            for ((kind, name), version) in &meant[pod.number] {
                let held = pod.holds.get(&(*kind, name.clone())).map(|(version, _)| version);
                prop_assert!(
                    !enforces(*kind, name) || held == Some(version),
                    "{} {name}",
                    PODS[pod.number].0
                );
            }
            for (kind, name) in pod.holds.keys() {
                let there = meant[pod.number].contains_key(&(*kind, name.clone()));
                prop_assert!(there || *kind != Listener, "{} still holds {name}", PODS[pod.number].0);
            }
        }
        Ok(())
    }
}

fn read(body: &Bytes) -> Wire {
    Wire::decode(body.clone()).unwrap()
}

fn take(response: &DeltaResponse, holds: &mut Holds) {
    let kind = ResourceType::from_type_url(&response.type_url).unwrap();
    for body in &response.resources {
        let wire = read(body);
        holds.insert((kind, wire.name), (wire.version, wire.resource.unwrap().value.into()));
    }
    for name in &response.removed_resources {
        holds.remove(&(kind, name.clone()));
    }
}

/// Whether an Envoy that holds this lets a call to port 8080 through to its application.
fn lets_through(holds: &Holds, caller: &str, method: &str) -> bool {
    let Some((_, bytes)) = holds.get(&(Listener, "inbound".to_owned())) else { return false };
    let listener = listener::Listener::decode(bytes.clone()).unwrap();
    let open = listener.filter_chains.iter().any(|chain| {
        let port = chain.filter_chain_match.as_ref().and_then(|matching| matching.destination_port);
        port.is_some_and(|port| port.value == 8080) && !chain.filters.is_empty()
    });
    let Some((_, bytes)) = holds.get(&(Route, "in|8080".to_owned())).filter(|_| open) else { return false };
    let config = RouteConfiguration::decode(bytes.clone()).unwrap();
    let per_route = &config.virtual_hosts[0].typed_per_filter_config["envoy.filters.http.rbac"];
    match RbacPerRoute::decode(per_route.value.as_slice()).unwrap().rbac.and_then(|rbac| rbac.rules) {
        None => true,
        Some(rules) => rules.policies.values().any(|policy| {
            policy.principals.iter().any(|one| is(one, caller))
                && policy.permissions.iter().any(|one| fits(one, method))
        }),
    }
}

fn is(principal: &rbac::Principal, caller: &str) -> bool {
    let Some(rbac::principal::Identifier::Authenticated(peer)) = &principal.identifier else {
        panic!("not foreseen: {principal:?}")
    };
    match peer.principal_name.as_ref().and_then(|name| name.match_pattern.as_ref()) {
        Some(MatchPattern::Exact(id)) => *id == format!("spiffe://cluster.local/ns/shop/sa/{caller}"),
        other => panic!("not foreseen: {other:?}"),
    }
}

fn fits(permission: &rbac::Permission, method: &str) -> bool {
    use rbac::permission::Rule;
    match permission.rule.as_ref().unwrap() {
        Rule::Any(any) => *any,
        // Every path in this world.
        Rule::UrlPath(_) => true,
        Rule::AndRules(all) => all.rules.iter().all(|one| fits(one, method)),
        Rule::Header(header) if header.name == ":method" => format!("{header:?}").contains(method),
        other => panic!("not foreseen: {other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_made_to_let_through_what_the_mesh_forbids(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut test = Test::new();
        for step in steps {
            match step {
                Ok(change) => {
                    edit(&mut test.mesh, change);
                    test.publish();
                }
                Err((number, act)) => test.act(number, act),
            }
            test.check()?;
        }
        test.converges()?;
    }
}
