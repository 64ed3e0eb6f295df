//! Whatever some sidecars say, no other ever holds rules that let through what the mesh forbids, or let out what it
//! forbids: the real model, its real rules, and streams of several service accounts of which two do what they like.

use std::collections::{BTreeMap, VecDeque};

use mesh::decide::{Callee, Caller, Request};
use mesh::ingest::ServiceAccount;
use mesh::{Call, Mesh, Verdict, decide};
use proptest::prelude::*;

use super::canary::{Fleet, PATIENCE};
use super::*;
use envoy::{lets_out, lets_through, read, take};
use world::{ACCOUNTS, Edit, FIRST_HONEST, HOSTS, METHODS, PODS, any_edit, edit, world};

mod envoy;
mod world;

/// What the Envoy of a pod does.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Takes the next response; a thief may refuse it, or say what it likes.
    Answer { lies: bool, refuses: bool },
    /// Looks whether it may go on, and takes all that it was sent, and what comes of that.
    TakeAll,
    /// Goes away and comes back; a thief says that it holds whatever it likes.
    Reconnect { invents: u8, envoy: u32 },
    /// Looks whether it may go on.
    Wake,
    /// Time goes by for all.
    Time,
}

fn any_step() -> impl Strategy<Value = Result<Edit, (usize, Act)>> {
    let act = prop_oneof![
        6 => (any::<bool>(), any::<bool>()).prop_map(|(lies, refuses)| Act::Answer { lies, refuses }),
        1 => (any::<u8>(), 0..4_u32).prop_map(|(invents, envoy)| Act::Reconnect { invents, envoy }),
        2 => Just(Act::TakeAll),
        1 => Just(Act::Wake),
        1 => Just(Act::Time),
    ];
    prop_oneof![1 => any_edit().prop_map(Ok), 4 => (0..PODS.len(), act).prop_map(Err)]
}

/// Ways to call a host outside: TLS, or a request of a method.
const HOW: [Option<&str>; 3] = [None, Some(METHODS[0]), Some(METHODS[1])];

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
    /// The state in which it was first sent something that it has not answered all of since.
    owes: Option<usize>,
}

impl Pod {
    /// The first state that may still count for it: the one before it was first sent what it has not answered.
    fn allowed_since(&self, now: usize) -> usize {
        self.owes.map_or(now, |state| state.saturating_sub(1))
    }

    /// Looks whether it has anything to answer that what leaves the mesh may wait for.
    fn owes(&mut self, state: usize) {
        let waits = |(_, response): &(usize, DeltaResponse)| response.type_url != Endpoint.type_url();
        self.owes = self.queue.iter().any(waits).then(|| self.owes.unwrap_or(state));
    }
}

/// Pod, host and method (TLS where there is none), and whether that call may be.
type Outside = BTreeMap<(usize, &'static str, Option<&'static str>), bool>;

/// All of it.
struct Test {
    mesh: Mesh,
    fleet: Fleet,
    pods: Vec<Pod>,
    /// The states of the mesh so far: what may be called, by pod, caller and method; and what each pod was to hold.
    allowed: Vec<BTreeMap<(usize, &'static str, &'static str), bool>>,
    /// The same for calls of a pod to a host outside, with TLS or by a method.
    outside: Vec<Outside>,
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
            owes: None,
        });
        let pods = pods.collect();
        let mut test =
            Self { mesh: world(), fleet, pods, allowed: Vec::new(), outside: Vec::new(), meant: Vec::new() };
        test.publish();
        for number in 0..PODS.len() {
            test.connect(number, 1, None);
        }
        test
    }

    fn now(&self) -> usize {
        self.allowed.len() - 1
    }

    fn may(&self, caller: &str, to: Callee, request: Request) -> bool {
        let from = Caller::ServiceAccount(ServiceAccount::new("shop", caller));
        matches!(decide(&self.mesh, &Call { from, to, request }), Verdict::Allowed(_))
    }

    fn publish(&mut self) {
        let http = |method: &str| {
            let (method, path) = (method.to_owned(), "/".to_owned());
            Request::Http { method, path, headers: BTreeMap::new() }
        };
        let (mut allowed, mut outside) = (BTreeMap::new(), BTreeMap::new());
        for (number, (pod, account)) in PODS.into_iter().enumerate() {
            for (caller, method) in ACCOUNTS.into_iter().flat_map(|one| METHODS.map(|method| (one, method))) {
                let to = Callee::Pod { namespace: "shop".to_owned(), name: pod.to_owned(), port: 8080 };
                allowed.insert((number, caller, method), self.may(caller, to, http(method)));
            }
            for (host, how) in HOSTS.into_iter().flat_map(|host| HOW.map(|how| (host, how))) {
                let tls = Request::Tls { server_name: Some(host.to_owned()) };
                let (port, request) = how.map_or((443, tls), |method| (80, http(method)));
                let to = Callee::Outside { host: Some(host.to_owned()), address: None, port };
                outside.insert((number, host, how), self.may(account, to, request));
            }
        }
        self.allowed.push(allowed);
        self.outside.push(outside);
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
                pod.owes(state);
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
                    all.into_iter().chain(["in|8080".to_owned(), "egress|80".to_owned()]).collect()
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
        pod.owes(state);
    }

    fn act(&mut self, number: usize, act: Act) {
        self.does(number, act);
        let state = self.now();
        self.pods[number].owes(state);
    }

    fn does(&mut self, number: usize, act: Act) {
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
            Act::TakeAll => {
                self.does(number, Act::Wake);
                while !self.pods[number].queue.is_empty() {
                    self.does(number, Act::Answer { lies: false, refuses: false });
                }
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

    /// What must be true of every honest pod at any time; of which one has just acted only that changes.
    fn check(&self, acted: Option<usize>) -> Result<(), TestCaseError> {
        let honest = self.pods[FIRST_HONEST..].iter();
        for pod in honest.filter(|pod| acted.is_none_or(|number| number == pod.number)) {
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
            // Nor does it wait for anybody else's: who has answered everything has what is meant for it now.
            let since = since(Listener).min(since(Route)).max(pod.allowed_since(self.now()));
            for (key, _) in self.allowed[0].iter().filter(|((number, ..), _)| *number == pod.number) {
                let may = self.allowed[since..].iter().any(|state| state[key]);
                prop_assert!(may || !lets_through(&pod.holds, key.1, key.2), "{key:?} is let through");
            }
            self.check_outside(pod)?;
        }
        Ok(())
    }

    /// What leaves the mesh may wait for the pod's own word on new clusters, but for nobody else's.
    fn check_outside(&self, pod: &Pod) -> Result<(), TestCaseError> {
        let since = pod.allowed_since(self.now());
        for key in self.outside[0].keys().filter(|(number, ..)| *number == pod.number) {
            let may = self.outside[since..].iter().any(|state| state[key]);
            prop_assert!(may || !lets_out(&pod.holds, key.1, key.2), "{key:?} is let out");
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
            for (key, may) in
                self.outside[self.now()].iter().filter(|((number, ..), _)| *number == pod.number)
            {
                // It may have refused the cluster that it needs for it.
                let refuses = !pod.script.session.rejections().first.is_empty();
                prop_assert!(refuses || *may == lets_out(&pod.holds, key.1, key.2), "{key:?}: {may}");
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nobody_is_made_to_let_through_what_the_mesh_forbids(steps in prop::collection::vec(any_step(), 1..120)) {
        let mut test = Test::new();
        for step in steps {
            match step {
                Ok(change) => {
                    edit(&mut test.mesh, change);
                    test.publish();
                    test.check(None)?;
                }
                Err((number, act)) => {
                    test.act(number, act);
                    test.check(Some(number))?;
                }
            }
        }
        test.converges()?;
    }
}
