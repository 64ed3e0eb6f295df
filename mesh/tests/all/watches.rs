//! Pods and EndpointSlices are watched apart from each other, and after a reconnect either watch may be ahead. Whatever
//! the order: who serves is called, and who does not is not for long.

use mesh::{Incremental, Kind, Mesh, Object, ObjectRef, Snapshot, render, view};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::world::*;

const APPS: [(&str, &str); 2] = [("old", "10.1.0.1"), ("new", "10.1.0.2")];

/// What a pod says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pod {
    Ready,
    /// As before, with the annotation that says which slot shall be live.
    Told,
    /// Its idle slot starts anew.
    Restarting,
    Failing,
    Deleting,
}

/// What the slice says of it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Slice {
    Ready,
    Unready,
    Terminating,
}

const SWAP: ([Pod; 4], [Slice; 3]) =
    ([Pod::Ready, Pod::Told, Pod::Restarting, Pod::Ready], [Slice::Ready, Slice::Unready, Slice::Ready]);

fn pod_in(app: usize, state: Pod) -> Object {
    let (name, address) = APPS[app];
    let mut value = pod_value(name, "store", name);
    let status = |name: &str, ready: bool| json!({"name": name, "ready": ready, "restartCount": 0, "image": "i", "imageID": ""});
    let ready = matches!(state, Pod::Ready | Pod::Told | Pod::Deleting);
    value["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "meshwright-proxy-b"}));
    value["status"] = json!({
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
        "containerStatuses": [
            status("meshwright-proxy", true), status("meshwright-proxy-b", state != Pod::Restarting),
            status("app", state != Pod::Failing),
        ],
    });
    match state {
        Pod::Told | Pod::Restarting => {
            value["metadata"]["annotations"] = json!({"meshwright.io/live-slot": "b"});
        }
        Pod::Deleting => value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        Pod::Ready | Pod::Failing => {}
    }
    pod_of(value)
}

fn slice_in(app: usize, state: Slice) -> Object {
    slice_by(app, state, &json!("endpointslice-controller.k8s.io"))
}

fn slice_by(app: usize, state: Slice, manager: &Value) -> Object {
    let (name, address) = APPS[app];
    let value = json!({
        "metadata": {
            "name": format!("{name}-1"), "namespace": NS,
            "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": manager},
        },
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{
            "addresses": [address],
            "conditions": {"ready": state == Slice::Ready, "terminating": state == Slice::Terminating},
            "targetRef": {"kind": "Pod", "namespace": NS, "name": name, "uid": format!("uid-{name}")},
        }],
    });
    Object::from(serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap())
}

/// A split over two services of one pod each, both ready.
fn shop() -> Mesh {
    let mut mesh = mesh(vec![
        namespace(NS, "demo"),
        pod("buyer-1", "buyer", "buyer"),
        service("store", "10.0.0.10", json!({"app": "nobody"}), &[("http", 80, json!(8080))]),
        service("old", "10.0.0.11", json!({"app": "old"}), &[("http", 80, json!(8080))]),
        service("new", "10.0.0.12", json!({"app": "new"}), &[("http", 80, json!(8080))]),
        policy("HTTPRouteGroup", "all", json!({"matches": [{"name": "all"}]})),
        target("open", "store", &["buyer"], http("all")),
        policy(
            "TrafficSplit",
            "half",
            json!({"service": "store", "backends": [{"service": "old", "weight": 1}, {"service": "new", "weight": 1}]}),
        ),
    ]);
    for app in 0..APPS.len() {
        mesh.apply(pod_in(app, Pod::Ready));
        mesh.apply(slice_in(app, Slice::Ready));
    }
    mesh
}

/// The pods that the buyer's calls to the split service reach.
fn called(mesh: &Mesh) -> Vec<String> {
    let view = view(mesh, &mesh.audience(NS, "buyer-1").unwrap());
    let receivers = view.outbound.services.iter().filter(|(key, _)| key.service == "store");
    let receivers = receivers.flat_map(|(_, service)| &service.routes).flat_map(|route| route.to.keys());
    let destinations = receivers.filter_map(|key| view.outbound.destinations.get(key));
    destinations.flat_map(|one| &one.endpoints).map(|one| one.ip().to_string()).collect()
}

/// A mesh, and the buyer's configuration brought up to date by what changed.
struct Followed {
    mesh: Mesh,
    incremental: Incremental,
}

impl Followed {
    fn new() -> Self {
        let (mesh, mut incremental) = (shop(), Incremental::new());
        incremental.add(&mesh, &mesh.audience(NS, "buyer-1").unwrap());
        Self { mesh, incremental }
    }

    fn take(&mut self, object: Object) {
        if let mesh::Changed::Something(what) = self.mesh.apply(object) {
            self.incremental.update(&self.mesh, &what);
        }
        let audience = self.mesh.audience(NS, "buyer-1").unwrap();
        let told: Snapshot = self.incremental.snapshot(&audience).unwrap();
        assert_eq!(told, render(&view(&self.mesh, &audience)), "what changed was told");
    }
}

/// What one watch delivers: the states of each pod in order, and for how many events it is cut off now and then, after
/// which it lists: the newest of everything, of which it may have seen some.
fn delivered<T: Copy>(states: &[T], order: &[bool], cuts: &[(usize, usize)]) -> Vec<(usize, T)> {
    let mut at = [0; 2];
    let mut events: Vec<(usize, T)> = Vec::new();
    for second in order {
        let app = usize::from(*second);
        at[app] += 1;
        events.push((app, states[at[app]]));
    }
    let (mut position, mut now, mut seen) = (0, [states[0]; 2], Vec::new());
    while position < events.len() {
        let cut = cuts.iter().find(|(from, _)| *from == position).map_or(0, |(_, length)| *length);
        let end = (position + cut.max(1)).min(events.len());
        for (app, state) in &events[position..end] {
            now[*app] = *state;
        }
        if cut == 0 {
            seen.push(events[position]);
        } else {
            seen.extend([(0, now[0]), (1, now[1])]);
        }
        position = end;
    }
    seen
}

fn merged(each: usize) -> impl Strategy<Value = Vec<bool>> {
    Just([vec![false; each], vec![true; each]].concat()).prop_shuffle()
}

fn cuts(events: usize) -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec((0..events, 1..4_usize), 0..3)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both backends of a split are swapped in place; neither is ever without its pod.
    #[test]
    fn one_watch_ahead_of_another_takes_no_endpoint_away(
        pods in merged(3), slices in merged(2), pod_cuts in cuts(6), slice_cuts in cuts(4),
        turns in prop::collection::vec(any::<bool>(), 24),
    ) {
        let mut pods = delivered(&SWAP.0, &pods, &pod_cuts).into_iter();
        let mut slices = delivered(&SWAP.1, &slices, &slice_cuts).into_iter();
        let mut followed = Followed::new();
        let mut turns = turns.into_iter().cycle();
        loop {
            let first = if turns.next() == Some(true) { pods.next().map(|(app, one)| pod_in(app, one)) } else { None };
            let event = first.or_else(|| slices.next().map(|(app, one)| slice_in(app, one)));
            let Some(event) = event.or_else(|| pods.next().map(|(app, one)| pod_in(app, one))) else { break };
            let shown = format!("{event:?}");
            followed.take(event);
            prop_assert_eq!(called(&followed.mesh), ["10.1.0.2", "10.1.0.1"], "after {}", shown);
        }
    }
}

#[test]
fn every_order_of_one_swap_keeps_its_endpoint() {
    for turns in 0_u32..1 << 5 {
        if turns.count_ones() != 2 {
            continue;
        }
        let (mut pod, mut slice) = (SWAP.0[1..].iter(), SWAP.1[1..].iter());
        let mut mesh = shop();
        for turn in 0..5 {
            mesh.apply(match turns & (1 << turn) {
                0 => pod_in(0, *pod.next().unwrap()),
                _ => slice_in(0, *slice.next().unwrap()),
            });
            assert_eq!(called(&mesh).len(), 2, "order {turns:05b}, after {turn}");
        }
    }
}

#[test]
fn a_pod_that_fails_leaves_when_both_say_so_and_comes_back_when_one_does() {
    let mut mesh = shop();
    for order in [true, false] {
        let (pod, slice) = (pod_in(0, Pod::Failing), slice_in(0, Slice::Unready));
        let (first, second) = if order { (pod, slice) } else { (slice, pod) };
        mesh.apply(first);
        assert_eq!(called(&mesh).len(), 2, "one may be ahead");
        mesh.apply(second);
        assert_eq!(called(&mesh), ["10.1.0.2"]);
        let back = if order { pod_in(0, Pod::Ready) } else { slice_in(0, Slice::Ready) };
        mesh.apply(back);
        assert_eq!(called(&mesh).len(), 2);
        mesh.apply(pod_in(0, Pod::Ready));
        mesh.apply(slice_in(0, Slice::Ready));
    }
}

#[test]
fn a_pod_that_goes_leaves_at_the_first_word_of_it() {
    let mut pod_first = shop();
    pod_first.apply(pod_in(0, Pod::Deleting));
    assert_eq!(called(&pod_first), ["10.1.0.2"]);
    let mut slice_first = shop();
    slice_first.apply(slice_in(0, Slice::Terminating));
    assert_eq!(called(&slice_first), ["10.1.0.2"]);
    let mut gone = shop();
    gone.delete(&ObjectRef::new(Kind::Pod, NS, "old"));
    assert_eq!(called(&gone), ["10.1.0.2"]);
}

/// A slice that Kubernetes does not keep is somebody's own word.
#[test]
fn who_writes_a_slice_by_hand_says_who_takes_calls() {
    for manager in [json!("somebody.example.com"), json!("")] {
        let mut mesh = shop();
        mesh.apply(slice_by(0, Slice::Unready, &manager));
        assert_eq!(called(&mesh), ["10.1.0.2"], "{manager}");
    }
}

/// The readiness of a pod concerns those who call it, and only if its slices do not say the same.
#[test]
fn readiness_is_told_once() {
    let mut mesh = shop();
    let endpoints = mesh::What::Endpoints { namespace: NS.to_owned(), service: "old".to_owned() };
    let told = mesh::Changed::Something([endpoints].into());
    assert_eq!(mesh.apply(pod_in(0, Pod::Failing)), mesh::Changed::Nothing);
    assert_eq!(mesh.apply(slice_in(0, Slice::Unready)), told);
    assert_eq!(mesh.apply(pod_in(0, Pod::Ready)), told);
    assert_eq!(mesh.apply(slice_in(0, Slice::Ready)), mesh::Changed::Nothing);
}

/// 400 pods and 100 services without a selector in one namespace: each pod is looked up in the services that name it, not
/// in all.
#[test]
fn a_pod_costs_the_services_that_lead_to_it() {
    let (pods, services) = (400_u32, 100_u32);
    let address = |number: u32| format!("10.2.{}.{}", number / 200, number % 200 + 1);
    let mut mesh = mesh([namespace(NS, "demo")]);
    for number in 0..services {
        let name = format!("s{number}");
        mesh.apply(service(&name, &format!("10.0.1.{number}"), Value::Null, &[("http", 80, json!(8080))]));
        // Each leads to four pods, two by name and two by address.
        let endpoints: Vec<_> = (0..4)
            .map(|one| {
                let pod = number * 4 + one;
                let target = json!({"kind": "Pod", "name": format!("p{pod}")});
                if one % 2 == 0 {
                    json!({"addresses": [address(pod)], "targetRef": target})
                } else {
                    json!({"addresses": [address(pod)]})
                }
            })
            .collect();
        let value = json!({
            "metadata": {"name": format!("{name}-1"), "namespace": NS, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        let slice: k8s_openapi::api::discovery::v1::EndpointSlice = serde_json::from_value(value).unwrap();
        mesh.apply(slice);
    }
    let before = mesh.looked_at();
    for number in 0..pods {
        let mut value = pod_value(&format!("p{number}"), "store", "store");
        value["status"]["podIP"] = json!(address(number));
        mesh.apply(pod_of(value));
    }
    let each = (mesh.looked_at() - before) / u64::from(pods);
    assert!(each <= 2, "{each} endpoints were looked at for each pod");
    for number in 0..pods {
        assert!(mesh.audience(NS, &format!("p{number}")).unwrap().ports.contains_key(&8080), "pod {number}");
    }
}

/// What is found by name and by address, while addresses move from pod to pod, is what a fresh look finds.
#[test]
fn who_is_behind_a_service_without_a_selector_does_not_depend_on_the_order() {
    let written = |name: &str, endpoints: Value| {
        let value = json!({
            "metadata": {"name": format!("{name}-1"), "namespace": NS, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        Object::from(serde_json::from_value::<k8s_openapi::api::discovery::v1::EndpointSlice>(value).unwrap())
    };
    let at = |name: &str, address: &str, phase: &str| {
        let mut value = pod_value(name, name, name);
        value["status"] = json!({"phase": phase, "podIP": address});
        pod_of(value)
    };
    let hand = |selector: Value| service("hand", "10.0.0.9", selector, &[("http", 80, json!(8080))]);
    let named = json!({"addresses": ["10.1.0.2"], "targetRef": {"kind": "Pod", "name": "b"}});
    let steps = [
        at("a", "10.1.0.1", "Running"),
        hand(Value::Null),
        written("hand", json!([{"addresses": ["10.1.0.1"]}, named])),
        at("b", "10.1.0.2", "Running"),
        // Another pod gets the address of one that has run to its end.
        at("a", "10.1.0.1", "Succeeded"),
        at("c", "10.1.0.1", "Running"),
        written("hand", json!([{"addresses": ["10.1.0.2"]}])),
        hand(json!({"app": "c"})),
        at("b", "10.1.0.7", "Running"),
        hand(Value::Null),
        written("hand", json!([{"addresses": ["10.1.0.7"]}, {"addresses": ["10.1.0.1"]}])),
        at("c", "10.1.0.8", "Running"),
        at("a", "10.1.0.1", "Running"),
    ];
    let mut one = mesh([namespace(NS, "demo")]);
    for step in 0..steps.len() {
        one.apply(steps[step].clone());
        let mut newest: Vec<&Object> = Vec::new();
        for object in &steps[..=step] {
            newest.retain(|other| other.reference() != object.reference());
            newest.push(object);
        }
        let fresh = mesh([namespace(NS, "demo")].into_iter().chain(newest.into_iter().rev().cloned()));
        for pod in ["a", "b", "c"] {
            assert_eq!(one.audience(NS, pod), fresh.audience(NS, pod), "{pod} after step {step}");
        }
    }
}
