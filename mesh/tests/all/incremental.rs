//! What is brought up to date is what would have been made from nothing, and no more is done than what changed needs.

use std::collections::{BTreeMap, BTreeSet};

use crds::mesh_config::{Authorization, Egress, Mtls};
use mesh::{
    Audience, Changed, Incremental, Mesh, Object, ObjectRef, ResourceType, Settings, Snapshot, What, Work,
};
use mesh::{render, view};
use proptest::prelude::*;
use serde_json::json;

use crate::world::*;

/// A mesh, and all of its audiences kept up to date.
struct World {
    mesh: Mesh,
    incremental: Incremental,
    /// What each audience has been told.
    told: BTreeMap<Audience, Snapshot>,
}

#[derive(Debug, Clone)]
enum Step {
    Apply(Object),
    Delete(ObjectRef),
    Settings(Settings),
}

fn patch(snapshot: &mut Snapshot, delta: mesh::Delta) -> usize {
    let mut different = 0;
    for ((kind, name), resource) in delta {
        let all = snapshot.resources.entry(kind).or_default();
        let old = match resource {
            Some(resource) => {
                let version = resource.version.clone();
                all.insert(name.to_string(), resource.as_ref().clone())
                    .is_none_or(|old| old.version != version)
            }
            None => all.remove(&*name).is_some(),
        };
        different += usize::from(old);
    }
    snapshot.resources.retain(|_, all| !all.is_empty());
    different
}

impl World {
    fn new(mesh: Mesh) -> Self {
        let mut world = Self { mesh, incremental: Incremental::new(), told: BTreeMap::new() };
        world.join_and_leave();
        world
    }

    /// Audiences come and go with their pods.
    fn join_and_leave(&mut self) {
        let audiences: BTreeSet<_> =
            self.mesh.pods().filter_map(|(namespace, pod)| self.mesh.audience(namespace, pod).ok()).collect();
        for gone in self.told.keys().filter(|held| !audiences.contains(held)).cloned().collect::<Vec<_>>() {
            self.incremental.remove(&gone);
            self.told.remove(&gone);
        }
        for new in audiences {
            if !self.told.contains_key(&new) {
                let mut snapshot = Snapshot::default();
                patch(&mut snapshot, self.incremental.add(&self.mesh, &new));
                self.told.insert(new, snapshot);
            }
        }
    }

    /// Takes steps as one batch; returns how many resources are different for how many audiences.
    fn take(&mut self, steps: impl IntoIterator<Item = Step>) -> (usize, usize) {
        let mut what: BTreeSet<What> = BTreeSet::new();
        for step in steps {
            let changed = match step {
                Step::Apply(object) => self.mesh.apply(object),
                Step::Delete(reference) => self.mesh.delete(&reference),
                Step::Settings(settings) => self.mesh.set_settings(settings),
            };
            if let Changed::Something(more) = changed {
                what.extend(more);
            }
        }
        let (mut resources, mut audiences) = (0, 0);
        for (audience, delta) in self.incremental.update(&self.mesh, &what) {
            let different = patch(self.told.get_mut(&audience).expect("an audience that was added"), delta);
            resources += different;
            audiences += usize::from(different > 0);
        }
        self.join_and_leave();
        (resources, audiences)
    }

    fn check(&self) {
        for (audience, told) in &self.told {
            let expected = render(&view(&self.mesh, audience));
            for kind in ResourceType::ALL {
                let versions = |snapshot: &Snapshot| -> BTreeMap<String, String> {
                    snapshot.of(kind).iter().map(|(name, one)| (name.clone(), one.version.clone())).collect()
                };
                assert_eq!(versions(told), versions(&expected), "{} of {audience:?}", kind.as_str());
                assert_eq!(told.of(kind), expected.of(kind));
            }
            assert_eq!(self.incremental.snapshot(audience), Some(expected));
        }
    }

    /// What was done for some steps.
    fn work(&mut self, steps: impl IntoIterator<Item = Step>) -> (Work, usize, usize) {
        let before = self.incremental.work();
        let (resources, audiences) = self.take(steps);
        self.check();
        let after = self.incremental.work();
        let work = Work {
            computed: after.computed - before.computed,
            encoded: after.encoded - before.encoded,
            visited: after.visited - before.visited,
        };
        (work, resources, audiences)
    }
}

fn group(name: &str, regex: &str) -> Object {
    let spec = json!({"matches": [{"name": "a", "pathRegex": regex}, {"name": "b", "methods": ["PUT"]}]});
    policy("HTTPRouteGroup", name, spec)
}

fn split(name: &str, root: &str, backends: &[(&str, u32)], matches: Option<&str>) -> Object {
    let backends: Vec<_> =
        backends.iter().map(|(name, weight)| json!({"service": name, "weight": weight})).collect();
    let mut spec = json!({"service": root, "backends": backends});
    if let Some(group) = matches {
        spec["matches"] = json!([{"kind": "HTTPRouteGroup", "name": group}]);
    }
    policy("TrafficSplit", name, spec)
}

/// Objects that are applied in any order, several of some: a later one replaces an earlier one.
fn objects() -> Vec<Object> {
    let dialed = |app: &str, address: &str, selector: serde_json::Value| {
        service(app, address, selector, &[("http", 80, json!(8080))])
    };
    let ready = |name: &str, pods: &[(&str, &str, bool)]| slice(name, &[("http", 8080)], pods);
    let mut leaving = pod_value("v1", "bookstore", "bookstore");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let mode = |name: &str, spec: serde_json::Value| policy("MeshPolicy", name, spec);
    let whole = |spec| policy_with("MeshPolicy", "whole", "meshwright-system", &json!({}), spec);
    let mut all = bookstore();
    all.extend([
        namespace(NS, "other"),
        namespace("system", "demo"),
        pod("v2", "bookstore-next", "bookstore"),
        pod("v1", "bookstore", "nobody"),
        pod_of(leaving),
        pod("thief-1", "buyer", "thief"),
        dialed("bookstore", "10.0.0.10", json!({"app": "nobody"})),
        dialed("bookstore", "10.0.0.20", json!({"app": "bookstore"})),
        dialed("bookstore-v1", "10.0.0.10", json!({"version": "v1"})),
        dialed("thieves", "10.0.0.15", json!({"app": "thief"})),
        service("bookstore-v2", "10.0.0.12", json!({"version": "v2"}), &[("tcp", 80, json!(8080))]),
        service("same-port", "10.0.0.14", json!({"version": "v1"}), &[("tcp", 81, json!(8080))]),
        ready("bookstore", &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", false)]),
        ready("bookstore-v1", &[("v1", "10.1.0.1", false)]),
        ready("bookstore-v1", &[("v1", "10.1.0.9", true)]),
        ready("thieves", &[("thief-1", "10.1.0.7", true)]),
        slice("same-port", &[("tcp", 8080)], &[("v1", "10.1.0.1", true)]),
        group("one", "/o.*"),
        group("one", "/other"),
        group("books", "/everything"),
        policy("TCPRoute", "any", json!({"matches": {"ports": [5432]}})),
        target("t1", "bookstore", &["buyer", "thief"], http("one")),
        target("t1", "bookstore-next", &["buyer"], http("one")),
        target("t1", "warehouse", &["thief"], tcp("any")),
        target("t2", "thief", &["bookstore", "warehouse"], http("books")),
        split("again", "bookstore", &[("bookstore-v1", 1)], None),
        split("canary", "bookstore", &[("bookstore", 1), ("bookstore-v2", 3)], None),
        split("canary", "bookstore-v1", &[("thieves", 1)], None),
        split("round", "thieves", &[("bookstore", 1)], None),
        split("testers", "bookstore", &[("bookstore-v2", 1)], Some("one")),
        mode("audit", json!({"selector": {"matchLabels": {"version": "v2"}}, "authorization": "Audit"})),
        mode("audit", json!({"selector": {"matchLabels": {"app": "thief"}}, "authorization": "AllowAll"})),
        mode("plain", json!({"selector": {"matchLabels": {"version": "v1"}}, "mtls": "Permissive"})),
        mode("all", json!({"authorization": "AllowAll"})),
        whole(json!({"authorization": "Audit"})),
        whole(json!({"mtls": "Permissive"})),
    ]);
    all.extend(outside());
    all.extend([gateway(&[]), gateway(&["192.0.2.7", "192.0.2.1"])]);
    all.extend(flavours());
    let mut all = addressed(all);
    all.extend(strangers());
    all
}

/// Whoever says that an address is theirs which is somebody else's, or lets go of it.
fn strangers() -> Vec<Object> {
    let at = |name: &str, namespace: &str, addresses: &[&str], phase: &str| {
        let mut value = pod_value(name, "thief", "thief");
        value["metadata"]["namespace"] = json!(namespace);
        let addresses: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        value["status"] = json!({"phase": phase, "podIPs": addresses});
        pod_of(value)
    };
    vec![
        at("v1", NS, &[], "Running"),
        at("a-stranger", "elsewhere", &["10.1.0.1"], "Running"),
        at("a-stranger", "elsewhere", &["10.1.0.2", "10.1.0.1"], "Succeeded"),
        at("z-stranger", NS, &["10.1.0.1", "10.1.0.2"], "Running"),
        at("v2", NS, &["10.1.0.1"], "Running"),
        slice("members", &[("http", 8080)], &[("thief-1", "10.1.0.1", true), ("v2", "10.1.0.2", true)]),
        slice("by-hand", &[("http", 8080)], &[("thief-1", "10.1.0.1", true), ("thief-1", "10.0.0.10", true)]),
        service("taker", "10.1.0.2", json!({"app": "nobody"}), &[("http", 8080, json!(8080))]),
    ]
}

/// Ports that declare nothing, headless services that share pods, and one whose endpoints a person writes.
fn flavours() -> Vec<Object> {
    let store = || json!({"app": "bookstore"});
    let quiet = |pods: &[(&str, &str, bool)]| slice("quiet", &[("", 9090)], pods);
    let members = |name: &str, pods: &[(&str, &str, bool)]| slice(name, &[("http", 8080)], pods);
    vec![
        service("quiet", "10.0.0.30", store(), &[("", 90, json!(9090))]),
        quiet(&[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", true)]),
        quiet(&[]),
        policy("TCPRoute", "any", json!({"matches": {"ports": [9090]}})),
        target("t3", "bookstore", &["buyer"], tcp("any")),
        target("t3", "bookstore", &["thief"], http("one")),
        service("members", "None", store(), &[("http", 80, json!(8080))]),
        service("members", "10.0.0.33", store(), &[("http", 80, json!(8080))]),
        service("more-members", "None", store(), &[("http", 80, json!(8080)), ("http-b", 81, json!(8080))]),
        members("members", &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", false)]),
        members("members", &[("v2", "10.1.0.2", true)]),
        members("more-members", &[("v1", "10.1.0.1", true), ("v2", "10.1.0.2", true)]),
        split("members", "members", &[("members", 1), ("bookstore-v1", 1)], None),
        service("by-hand", "10.0.0.31", serde_json::Value::Null, &[("http", 80, json!(8080))]),
        members("by-hand", &[("v1", "10.1.0.1", true)]),
        members("by-hand", &[("thief-1", "10.1.0.7", true)]),
    ]
}

fn all_settings() -> Vec<Settings> {
    vec![
        settings(),
        settings_with(Mtls::Permissive, Authorization::AllowAll, Egress::Allow),
        Settings { trust_domain: "other.local".to_owned(), ..settings() },
        Settings { namespace: NS.to_owned(), ..settings() },
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let apply = prop::sample::select(objects()).prop_map(Step::Apply);
    let delete = prop::sample::select(objects()).prop_map(|object| Step::Delete(object.reference()));
    let settings = prop::sample::select(all_settings()).prop_map(Step::Settings);
    prop::collection::vec(prop_oneof![16 => apply, 8 => delete, 1 => settings], 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_brought_up_to_date_is_what_is_made_from_nothing(batches in prop::collection::vec(steps(), 1..24)) {
        let mut world = World::new(mesh(bookstore()));
        world.check();
        for batch in batches {
            world.take(batch);
            world.check();
        }
    }
}

fn apply(object: Object) -> [Step; 1] {
    [Step::Apply(object)]
}

/// Many services of many accounts in one namespace, which the buyer and the bookstore may call all or none of.
fn large(services: usize) -> World {
    let mut all = bookstore();
    for n in 0..services {
        let (name, address) = (format!("s{n}"), format!("10.2.0.{n}"));
        all.push(pod(&name, &name, &name));
        all.push(service(&name, &address, json!({"app": name}), &[("http", 80, json!(8080))]));
        all.push(slice(&name, &[("http", 8080)], &[(name.as_str(), &format!("10.3.0.{n}"), true)]));
        all.push(target(&name, &name, &["buyer"], http("books")));
    }
    World::new(mesh(all))
}

#[test]
fn an_endpoint_is_one_resource_for_those_who_may_call_the_service() {
    let mut world = large(20);
    let step = apply(slice("s7", &[("http", 8080)], &[("s7", "10.3.0.7", false)]));
    let (work, resources, audiences) = world.work(step);
    assert_eq!((resources, audiences), (1, 1), "the buyer's endpoints of s7");
    assert_eq!(work, Work { computed: 2, encoded: 1, visited: 1 });
}

#[test]
fn equal_resources_of_several_audiences_are_encoded_once() {
    let mut world =
        World::new(mesh_of(settings_with(Mtls::Strict, Authorization::AllowAll, Egress::Deny), bookstore()));
    let step = apply(slice("warehouse", &[("tcp", 5432)], &[("warehouse-1", "10.1.0.3", false)]));
    let (work, resources, audiences) = world.work(step);
    assert_eq!((resources, audiences), (4, 4), "everybody's endpoints of the warehouse");
    // Service and receiver, as the bookstore sees them, to which they are opened, and as the others do.
    assert_eq!((work.computed, work.encoded), (4, 1));
}

#[test]
fn a_new_service_is_a_few_small_resources() {
    let mut world = large(20);
    let service = service("new", "10.2.1.1", json!({"app": "s3"}), &[("http", 80, json!(8080))]);
    let (work, resources, audiences) = world.work(apply(service));
    assert_eq!((resources, audiences), (4, 1), "cluster, endpoints, listener and route of the buyer");
    assert_eq!(work.encoded, 4);
    // Every audience is asked whether it may call it, and no other service is looked at.
    assert_eq!(work.visited, world.told.len() as u64);
}

#[test]
fn a_rule_touches_those_who_may_call_and_those_who_are_called() {
    let mut world = large(20);
    let (work, resources, audiences) = world.work(apply(target("new", "s5", &["thief"], http("books"))));
    assert_eq!((resources, audiences), (5, 2), "the thief's s5, and the rules of one route of s5");
    assert_eq!(work.visited, 2);
    // A group that many TrafficTargets name: the routes of those that they open.
    let (_, resources, audiences) = world.work(apply(group("books", "/all")));
    assert_eq!((resources, audiences), (21, 21), "a route each of 20 services and of the bookstore");
}

#[test]
fn a_retry_touches_its_source_at_its_destinations() {
    let mut world = large(20);
    let retry = |destination: &str, on: &str| {
        let spec = json!({
            "source": {"kind": "ServiceAccount", "name": "buyer", "namespace": NS},
            "destinations": [{"kind": "Service", "name": destination, "namespace": NS}],
            "retryPolicy": {"retryOn": on},
        });
        policy("Retry", "again", spec)
    };
    let (work, resources, audiences) = world.work(apply(retry("s5", "5xx")));
    assert_eq!((resources, audiences), (1, 1), "the buyer's route of s5");
    assert_eq!(work, Work { computed: 1, encoded: 2, visited: 1 }, "with its listener, which is the same");
    let (work, resources, audiences) = world.work(apply(retry("s6", "5xx")));
    assert_eq!((resources, audiences, work.visited), (2, 1, 2), "s5 as before, and s6");
    let (_, resources, audiences) = world.work([Step::Delete(retry("s6", "5xx").reference())]);
    assert_eq!((resources, audiences), (1, 1));
    // Not there, and not listed.
    let (work, resources, _) = world.work(apply(retry("gone", "5xx")));
    assert_eq!((resources, work.encoded), (0, 0));
}

#[test]
fn what_nobody_depends_on_sends_and_encodes_nothing() {
    let mut world = large(20);
    let unrelated = [
        policy("TCPRoute", "unused", json!({"matches": {"ports": [1]}})),
        target("unused", "nobody", &["nobody"], http("books")),
        group("unused", "/"),
        service("empty", "10.2.1.9", json!({"app": "nobody"}), &[("http", 80, json!(8080))]),
        slice("empty", &[("http", 8080)], &[]),
        pod("idle", "idle", "idle"),
    ];
    for object in unrelated {
        let name = object.reference();
        let adds = usize::from(name.name == "idle");
        let audiences = world.told.len();
        let (work, resources, woken) = world.work(apply(object));
        assert_eq!((resources, woken), (0, 0), "{name}");
        assert_eq!(world.told.len(), audiences + adds);
        assert_eq!(work.encoded > 0, adds > 0, "{name}: {work:?}");
    }
}
