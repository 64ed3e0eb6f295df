//! The owner of the mesh: what is computed for whom, and who is told. Counted, not timed.

use std::sync::Arc;

use controller::daemon::empty_mesh;
use controller::metrics::Metrics;
use controller::snapshots::{Feed, Input, PodRef, Snapshots};
use mesh::{Kind, Object, ObjectRef, Problem, Reason, ResourceType};
use serde_json::json;

use crate::support::{options, pod_value, shop, slice, until_true};

struct World {
    snapshots: Snapshots,
    metrics: Metrics,
}

impl World {
    async fn new(objects: Vec<Object>) -> Self {
        let metrics = Metrics::default();
        let snapshots = Snapshots::start(empty_mesh(&options()).unwrap(), metrics.clone()).unwrap();
        let world = Self { snapshots, metrics };
        for object in objects {
            world.apply(object).await;
        }
        world
    }

    async fn synced(objects: Vec<Object>) -> Self {
        let world = Self::new(objects).await;
        world.snapshots.send(Input::Synced).await;
        world
    }

    async fn apply(&self, object: Object) {
        self.snapshots.send(Input::Apply(Box::new(object))).await;
    }

    /// Everything sent so far has been handled.
    async fn settled(&self) {
        // The queue keeps its order: an answered stream comes after all that was sent before.
        drop(self.feed("bookstore-1").await);
        until_true("the stream has left", || self.snapshots.audiences().len() < 3).await;
    }

    async fn feed(&self, pod: &str) -> Feed {
        self.feed_of(pod, &format!("uid-{pod}")).await.expect("the mesh lives")
    }

    async fn feed_of(&self, pod: &str, uid: &str) -> Option<Feed> {
        let pod = PodRef { namespace: "shop".to_owned(), name: pod.to_owned(), uid: uid.to_owned() };
        self.snapshots.attach(pod).await
    }
}

fn pod(name: &str, account: &str) -> Object {
    serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(pod_value(name, account, account))
        .unwrap()
        .into()
}

#[tokio::test]
async fn nobody_is_served_before_everything_is_known() {
    let world = World::new(shop()).await;
    let mut early = std::pin::pin!(world.feed("buyer-1"));
    assert!(futures::poll!(&mut early).is_pending());
    // The queue keeps its order: when this pod is known, the stream has been looked at.
    world.apply(pod("later", "buyer")).await;
    until_true("the queue is empty", || world.snapshots.pod("shop", "later").is_some()).await;
    assert!(futures::poll!(&mut early).is_pending(), "served too early");
    assert_eq!(world.metrics.renders.get(), 0);
    world.snapshots.send(Input::Synced).await;
    assert_eq!(early.await.facts.service_account, "buyer");
}

#[tokio::test]
async fn replicas_share_one_computation_and_its_bytes() {
    let mut objects = shop();
    objects.push(pod("buyer-2", "buyer"));
    let world = World::synced(objects).await;
    let (one, two) = (world.feed("buyer-1").await, world.feed("buyer-2").await);
    assert!(Arc::ptr_eq(&one.served.borrow(), &two.served.borrow()));
    assert_eq!(world.metrics.renders.get(), 1);
}

#[tokio::test]
async fn endpoints_concern_only_those_who_hold_the_service() {
    let mut objects = shop();
    objects.push(pod("thief-1", "thief"));
    let world = World::synced(objects).await;
    let (mut buyer, thief) = (world.feed("buyer-1").await, world.feed("thief-1").await);
    let (visited, encoded) = (world.metrics.visited.get(), world.metrics.encoded.get());
    world.apply(slice(&["10.8.0.1", "10.8.0.2"])).await;
    buyer.served.changed().await.unwrap();
    // The last of what is counted.
    until_true("the work is counted", || world.metrics.visited.get() > visited).await;
    assert_eq!((world.metrics.visited.get() - visited, world.metrics.encoded.get() - encoded), (1, 1));
    assert!(!thief.served.has_changed().unwrap());
    let changed = buyer.served.borrow().changed().to_vec();
    assert_eq!(changed, [(ResourceType::Endpoint, "out|shop|bookstore|80".into())], "one resource");
}

#[tokio::test]
async fn what_changes_nothing_wakes_nobody() {
    let world = World::synced(shop()).await;
    let buyer = world.feed("buyer-1").await;
    let published = world.metrics.published.get();
    for object in shop() {
        world.apply(object).await;
    }
    world.settled().await;
    assert!(!buyer.served.has_changed().unwrap());
    assert_eq!(world.metrics.published.get(), published);
}

#[tokio::test]
async fn a_pod_that_is_not_known_yet_is_waited_for_and_an_older_one_of_that_name_does_not_count() {
    let world = World::synced(shop()).await;
    let waiting = world.feed_of("buyer-1", "uid-of-a-newer-pod");
    let newer = async {
        let mut value = pod_value("buyer-1", "buyer", "buyer");
        value["metadata"]["uid"] = json!("uid-of-a-newer-pod");
        world.apply(serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(value).unwrap().into()).await;
    };
    let (feed, ()) = tokio::join!(waiting, newer);
    assert_eq!(feed.unwrap().facts.uid, "uid-of-a-newer-pod");
}

#[tokio::test]
async fn an_audience_ends_some_time_after_its_last_stream() {
    let world = World::synced(shop()).await;
    let feed = world.feed("buyer-1").await;
    until_true("it is there", || world.metrics.audiences.get() == 1 && world.metrics.resources.get() > 0)
        .await;
    drop(feed);
    until_true("nobody hears it", || world.metrics.audiences.get() == 0).await;
    assert!(world.snapshots.audiences().is_empty());
    world.snapshots.send(Input::Expire(std::time::Instant::now())).await;
    until_true("it is gone, and its bytes too", || world.metrics.resources.get() == 0).await;
}

/// What is kept up to date meanwhile is what would be computed from nothing.
#[tokio::test]
async fn a_sidecar_that_comes_back_again_and_again_costs_one_computation() {
    let world = World::synced(shop()).await;
    for _ in 0..50 {
        drop(world.feed("buyer-1").await);
    }
    world.apply(slice(&["10.8.0.1", "10.8.0.2"])).await;
    let back = world.feed("buyer-1").await;
    assert_eq!(world.metrics.renders.get(), 1);
    let fresh = World::synced(shop()).await;
    fresh.apply(slice(&["10.8.0.1", "10.8.0.2"])).await;
    let new = fresh.feed("buyer-1").await;
    for kind in ResourceType::ALL {
        let versions = |feed: &Feed| -> Vec<_> {
            let served = feed.served.borrow();
            served.of(kind).iter().map(|(name, one)| (name.clone(), one.version.clone())).collect()
        };
        assert_eq!(versions(&back), versions(&new));
    }
}

/// Audiences that nobody hears are few, whoever comes and goes.
#[tokio::test]
async fn what_is_kept_for_nobody_is_bounded() {
    let mut objects = shop();
    objects.extend((0..200).map(|number| pod(&format!("p-{number}"), &format!("account-{number}"))));
    let world = World::synced(objects).await;
    let mut most = 0;
    for number in 0..200 {
        drop(world.feed(&format!("p-{number}")).await);
        world.snapshots.flushed().await;
        most = most.max(world.metrics.resources.get());
    }
    let one = {
        let one = World::synced(shop()).await;
        let _feed = one.feed("buyer-1").await;
        one.snapshots.flushed().await;
        one.metrics.resources.get()
    };
    assert!(most <= 65 * one, "{most} resources, {one} of one audience");
}

#[tokio::test]
async fn a_mesh_whose_thread_dies_is_not_live() {
    let broken = |_: &mesh::Audience, _: &mut mesh::Delta| panic!("of this test");
    let metrics = Metrics::default();
    let snapshots =
        Snapshots::start_with(empty_mesh(&options()).unwrap(), metrics, Some(Box::new(broken))).unwrap();
    for object in shop() {
        snapshots.send(Input::Apply(Box::new(object))).await;
    }
    snapshots.send(Input::Synced).await;
    snapshots.flushed().await;
    assert_eq!(controller::watch::monitor::live(&snapshots), Ok(()));
    let pod =
        PodRef { namespace: "shop".to_owned(), name: "buyer-1".to_owned(), uid: "uid-buyer-1".to_owned() };
    assert!(snapshots.attach(pod).await.is_none());
    snapshots.died().cancelled().await;
    assert!(controller::watch::monitor::live(&snapshots).is_err());
}

#[tokio::test]
async fn another_mode_is_another_audience_for_the_same_stream() {
    let world = World::synced(shop()).await;
    let mut feed = world.feed("bookstore-1").await;
    let policy = json!({
        "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshPolicy",
        "metadata": {"name": "open", "namespace": "shop"}, "spec": {"mtls": "Permissive"},
    });
    world.apply(serde_json::from_value::<crds::MeshPolicy>(policy).unwrap().into()).await;
    feed.served.changed().await.unwrap();
    until_true("it is in the new audience only", || {
        let audiences = world.snapshots.audiences();
        audiences.len() == 1 && audiences[0].0.mtls == crds::mesh_config::Mtls::Permissive
    })
    .await;
}

#[tokio::test]
async fn an_undecodable_object_is_reported_until_it_is_good_or_gone() {
    let world = World::synced(shop()).await;
    let reference = ObjectRef::new(Kind::TrafficTarget, "shop", "buy");
    let problem = Problem::new(&reference, "", Reason::Incomplete, "unreadable");
    let feed = world.feed("buyer-1").await;
    world.snapshots.send(Input::Undecodable(problem.clone())).await;
    until_true("it is reported", || world.snapshots.problems().iter().any(|p| p.name == "buy")).await;
    assert!(!feed.served.has_changed().unwrap(), "its last good version stays in force");
    world.apply(shop().pop().unwrap()).await;
    until_true("it is good", || world.snapshots.problems().iter().all(|p| p.name != "buy")).await;
    world.snapshots.send(Input::Undecodable(problem)).await;
    world.snapshots.send(Input::Delete(reference)).await;
    until_true("it is gone", || world.snapshots.problems().iter().all(|p| p.name != "buy")).await;
}
