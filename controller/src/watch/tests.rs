use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use mesh::{Mesh, Settings};

use super::current::{Freshness, Listed, Newest};
use super::*;
use crate::metrics::Metrics;
use crate::snapshots::{Found, Gate, Holds};

fn snapshots() -> Snapshots {
    let spec = serde_json::from_value(serde_json::json!({"version": "0.1.0"})).unwrap();
    Snapshots::start(Mesh::new(Settings::new("main", &spec)), Metrics::default()).unwrap()
}

fn reason(readiness: &Readiness) -> String {
    readiness.missing().first().map(|missing| missing.reason.clone()).unwrap_or_default()
}

fn watching<'a>(client: &'a Client, stop: &'a CancellationToken, syncing: Syncing) -> Watching<'a> {
    Watching { client, stop, syncing, seen: Seen::default(), monitor: Monitor::default() }
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let wait = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}

#[tokio::test]
async fn ready_is_said_when_the_mesh_has_taken_everything_in_and_not_when_it_is_queued() {
    let (snapshots, readiness) = (snapshots(), Readiness::new());
    let syncing = Syncing::new(&["Pod", "Service"], readiness.clone(), snapshots.clone());
    syncing.done("Pod").await;
    assert_eq!(reason(&readiness), "not listed yet: Service");
    syncing.done("Service").await;
    // This task has not let another one run since.
    assert_eq!(reason(&readiness), "everything is listed; the mesh takes it in");
    until("ready", || readiness.missing().is_empty()).await;
    assert!(snapshots.synced());
}

/// An API server that serves a kind only from some moment on.
fn server(served: Arc<AtomicBool>) -> Client {
    let answer = move |request: Request<kube::client::Body>| {
        let served = served.load(Ordering::SeqCst);
        async move {
            let watching = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let list = r#"{"apiVersion":"meshwright.io/v1alpha1","kind":"List","metadata":{"resourceVersion":"1"},"items":[]}"#;
            let gone = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"page not found","code":404}"#;
            let (status, body) = match (served, watching) {
                (false, _) => (404, Body::from(gone)),
                (true, false) => (200, Body::from(list)),
                (true, true) => {
                    let silent = futures::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
                    (200, Body::from_stream(silent))
                }
            };
            Ok::<_, std::convert::Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    };
    Client::new(tower::service_fn(answer), "default")
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_not_an_empty_list() {
    let (snapshots, readiness, stop) = (snapshots(), Readiness::new(), CancellationToken::new());
    let served = Arc::new(AtomicBool::new(false));
    let client = server(served.clone());
    let kind = Kind::MeshPolicy;
    let syncing = Syncing::new(&[kind.as_str()], readiness.clone(), snapshots.clone());
    let watching = watching(&client, &stop, syncing);
    watching.start::<MeshPolicy>(kind);
    let why = "not listed yet: MeshPolicy (the cluster does not serve this kind: install its CRD)";
    until("it says why", || reason(&readiness) == why).await;
    assert!(!snapshots.synced());
    served.store(true, Ordering::SeqCst);
    until("the CRD is there", || readiness.missing().is_empty()).await;
    assert!(snapshots.synced());
    stop.cancel();
}

/// What the API server says, one answer after the other; the last one again and again.
struct Says {
    answers: Mutex<VecDeque<Result<Listed, String>>>,
    asked: AtomicUsize,
}

impl Newest for Says {
    fn newest(&self) -> BoxFuture<'_, Result<Listed, String>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(async move { answer.unwrap() })
    }
}

fn key(name: &str) -> (&'static str, String, String) {
    ("TrafficTarget", "shop".to_owned(), name.to_owned())
}

fn held(all: &[(&str, &str)]) -> Listed {
    let versions = all.iter().map(|(name, version)| (key(name), (*version).to_owned())).collect();
    Listed { versions, ..Listed::default() }
}

const TIMES: Times = Times {
    pause: Duration::from_millis(20),
    patience: Duration::from_secs(60),
    again: Duration::from_millis(2),
};

fn gate(answers: Vec<Result<Listed, String>>) -> (Arc<Freshness>, Arc<Says>, Seen, Snapshots) {
    let says = Arc::new(Says { answers: Mutex::new(answers.into()), asked: AtomicUsize::new(0) });
    let (seen, snapshots) = (Seen::default(), snapshots());
    (Arc::new(Freshness::new(seen.clone(), says.clone(), snapshots.clone(), TIMES)), says, seen, snapshots)
}

fn note(seen: &Seen, name: &str, version: Option<&str>) {
    seen.note("TrafficTarget", ("shop".to_owned(), name.to_owned()), version.map(str::to_owned));
}

#[tokio::test]
async fn a_lagging_replica_does_not_roll_a_sidecar_back() {
    // The target was edited, another one deleted, and this replica's watch has heard of neither.
    let (gate, says, seen, snapshots) = gate(vec![Ok(held(&[("buy", "2")]))]);
    note(&seen, "buy", Some("1"));
    note(&seen, "gone", Some("1"));
    snapshots.guard(gate);
    let waiting = tokio::spawn({
        let snapshots = snapshots.clone();
        async move { snapshots.current(Holds::Something).await }
    });
    // It has looked again since, and found the same.
    let looked_again = async || {
        let before = says.asked.load(Ordering::SeqCst);
        until("two more looks", || says.asked.load(Ordering::SeqCst) >= before + 2).await;
    };
    looked_again().await;
    assert!(!waiting.is_finished(), "served as it was before");
    note(&seen, "buy", Some("2"));
    looked_again().await;
    assert!(!waiting.is_finished(), "what was deleted is still open here");
    note(&seen, "gone", None);
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn one_that_stays_behind_serves_nobody_and_says_what_is_missing() {
    let (_, says, seen, snapshots) = gate(vec![Ok(held(&[("buy", "2")]))]);
    note(&seen, "buy", Some("1"));
    let times = Times { patience: Duration::from_millis(20), ..TIMES };
    snapshots.guard(Arc::new(Freshness::new(seen, says, snapshots.clone(), times)));
    for holds in [Holds::Nothing, Holds::Something] {
        let why = snapshots.current(holds).await.unwrap_err();
        assert!(why.contains("TrafficTarget shop/buy"), "{why}");
    }
}

#[tokio::test]
async fn without_the_api_server_only_those_are_served_that_hold_nothing() {
    let (gate, _, _, snapshots) = gate(vec![Err("connection refused".to_owned())]);
    snapshots.guard(gate);
    assert_eq!(snapshots.current(Holds::Nothing).await, Ok(()), "the last good is better than nothing");
    let why = snapshots.current(Holds::Something).await.unwrap_err();
    assert!(why.contains("connection refused"), "{why}");
}

/// Streams that come at once share a look that began after all of them.
#[tokio::test]
async fn a_storm_of_streams_costs_two_looks() {
    let (gate, says, _, _) = gate(vec![Ok(Listed::default())]);
    let all = futures::future::join_all((0..1000).map(|_| gate.check())).await;
    assert!(all.iter().all(|found| *found == Found::Current));
    assert!(says.asked.load(Ordering::SeqCst) <= 2, "{:?}", says.asked);
    gate.check().await;
    assert!(says.asked.load(Ordering::SeqCst) <= 3);
}

#[tokio::test]
async fn a_replica_that_begins_waits_for_what_is_being_put_back() {
    let (snapshots, readiness) = (snapshots(), Readiness::new());
    let target = |account: &str| -> Object {
        let spec = serde_json::json!({
            "destination": {"kind": "ServiceAccount", "name": account, "namespace": "shop"}, "sources": [],
        });
        let value = serde_json::json!({
            "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
            "metadata": {"name": "buy", "namespace": "shop", "labels": {crds::labels::SOURCE: "meshwright-system.team"}}, "spec": spec,
        });
        serde_json::from_value::<TrafficTarget>(value).unwrap().into()
    };
    let Object::TrafficTarget(sealed) = target("store") else { panic!("a target") };
    let hash = crds::seal::content_hash(&sealed.spec).unwrap();
    let source = serde_json::json!({
        "apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource",
        "metadata": {"name": "team", "namespace": "meshwright-system"}, "spec": {"git": {"url": "/repo"}},
        "status": {"applied": {"commit": "c"}, "inventory": [{"kind": "TrafficTarget", "namespace": "shop", "name": "buy", "hash": hash}]},
    });
    let source: PolicySource = serde_json::from_value(source).unwrap();
    for object in [source.into(), target("edited")] {
        snapshots.send(Input::Apply(Box::new(object))).await;
    }
    let syncing = Syncing::new(&["Pod"], readiness.clone(), snapshots.clone());
    syncing.done("Pod").await;
    let why = "not there as they are sealed: PolicySource meshwright-system/team";
    until("it says what it waits for", || reason(&readiness) == why).await;
    assert!(!snapshots.synced());
    snapshots.send(Input::Apply(Box::new(target("store")))).await;
    until("it is put back", || readiness.missing().is_empty()).await;
    assert!(snapshots.synced());
}

/// While policies are written all the time, what is listed has been known, though it is newer by now.
#[tokio::test]
async fn what_has_moved_on_since_it_was_listed_does_not_hold_streams_up() {
    let (gate, says, seen, snapshots) = gate(vec![Ok(held(&[("buy", "2")]))]);
    note(&seen, "buy", Some("1"));
    snapshots.guard(gate);
    let waiting = tokio::spawn({
        let snapshots = snapshots.clone();
        async move { snapshots.current(Holds::Something).await }
    });
    until("it has looked", || says.asked.load(Ordering::SeqCst) >= 1).await;
    note(&seen, "buy", Some("2"));
    note(&seen, "buy", Some("3"));
    assert_eq!(waiting.await.unwrap(), Ok(()));
}

/// X5: an API server that has one object of each kind, and notes what it was asked for.
fn full_server(asked: Arc<Mutex<BTreeMap<String, String>>>) -> Client {
    let answer = move |request: Request<kube::client::Body>| {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let resource = path.rsplit('/').next().unwrap_or_default().to_owned();
        asked.lock().insert(resource.clone(), query);
        async move {
            let list = serde_json::json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "9"},
                "items": [{"metadata": {"name": "main", "namespace": resource, "resourceVersion": "7"}}],
            });
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(list.to_string())))
        }
    };
    Client::new(tower::service_fn(answer), "default")
}

#[tokio::test]
async fn every_kind_that_is_compared_is_listed_and_noted_and_no_other() {
    let asked = Arc::new(Mutex::default());
    let client = full_server(Arc::clone(&asked));
    let lists = current::Lists { client: client.clone(), mesh: "main".to_owned() };
    let listed = lists.newest().await.unwrap();
    let mut kinds: BTreeSet<_> =
        Kind::ALL.iter().copied().filter(|kind| current::is_compared(*kind)).map(Kind::as_str).collect();
    kinds.insert(settings::KIND);
    assert_eq!(listed.versions.keys().map(|(kind, ..)| *kind).collect::<BTreeSet<_>>(), kinds);
    let asked = asked.lock().clone();
    assert_eq!(asked.len(), kinds.len(), "{asked:?}");
    assert!(asked.contains_key("namespaces") && asked.contains_key("services"));
    // Without a version: as it is now, not as some cache has it.
    assert!(asked.values().all(|query| !query.contains("resourceVersion")), "{asked:?}");
    let (stop, snapshots) = (CancellationToken::new(), snapshots());
    let syncing = Syncing::new(&[], Readiness::new(), snapshots);
    let watching = watching(&client, &stop, syncing);
    for &kind in Kind::ALL {
        assert_eq!(watching.feed(kind).0.seen.is_some(), kinds.contains(kind.as_str()), "{kind}");
    }
}

/// X5: a namespace that has left the mesh, as a replica has not heard yet.
#[tokio::test]
async fn a_replica_that_has_not_heard_of_a_namespace_as_it_is_serves_nobody() {
    let space = ("Namespace", String::new(), "shop".to_owned());
    let listed = Listed { versions: [(space, "2".to_owned())].into(), ..Listed::default() };
    let (_, says, seen, snapshots) = gate(vec![Ok(listed)]);
    let note =
        |version: &str| seen.note("Namespace", (String::new(), "shop".to_owned()), Some(version.to_owned()));
    note("1");
    let times = Times { patience: Duration::from_millis(20), ..TIMES };
    snapshots.guard(Arc::new(Freshness::new(seen.clone(), says, snapshots.clone(), times)));
    let why = snapshots.current(Holds::Something).await.unwrap_err();
    assert!(why.contains("Namespace /shop"), "{why}");
    note("2");
    assert_eq!(snapshots.current(Holds::Something).await, Ok(()));
}

/// A CRD that was deleted, a right that was taken away: everybody is as blind, and sidecars need their endpoints.
#[tokio::test]
async fn a_kind_that_nobody_can_see_holds_no_stream_up() {
    let unseen = Listed { unseen: ["TrafficTarget"].into(), ..Listed::default() };
    let (gate, _, seen, snapshots) = gate(vec![Ok(unseen)]);
    note(&seen, "buy", Some("1"));
    snapshots.guard(gate);
    assert_eq!(snapshots.current(Holds::Something).await, Ok(()));
}
