//! A route that a real Envoy refuses, while the cluster that its last good route names goes away.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use controller::snapshots::Alter;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatcher;
use envoy_types::pb::google::protobuf::Any;
use mesh::ResourceType::{Cluster, Endpoint, Route};
use mesh::{Delta, Resource, ResourceType};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::envoy::{ADMIN, Envoy, Relay, refresh};
use crate::support::{Controller, shop, slice, until_true};

const STORE: &str = "out|shop|bookstore|80";

/// A route with an expression that nobody can read.
fn refused() -> Arc<Resource> {
    let regex = RegexMatcher { regex: "(".to_owned(), ..RegexMatcher::default() };
    let matching = route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(regex)),
        ..route::RouteMatch::default()
    };
    let answer = route::DirectResponseAction { status: 200, ..route::DirectResponseAction::default() };
    let one = route::Route {
        r#match: Some(matching),
        action: Some(route::route::Action::DirectResponse(answer)),
        ..route::Route::default()
    };
    let host = route::VirtualHost {
        name: STORE.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![one],
        ..route::VirtualHost::default()
    };
    let config = route::RouteConfiguration {
        name: STORE.to_owned(),
        virtual_hosts: vec![host],
        ..route::RouteConfiguration::default()
    };
    let any = Any { type_url: Route.type_url().to_owned(), value: config.encode_to_vec() };
    let wire =
        Wire { name: STORE.to_owned(), version: "bad".to_owned(), resource: Some(any), ..Wire::default() };
    let body = wire.encode_to_vec().into();
    Arc::new(Resource { name: STORE.to_owned(), version: "bad".to_owned(), body, clusters: Arc::default() })
}

/// While the switch is on: the bookstore's route is one that Envoy refuses, and its cluster is gone.
fn with_switch() -> (Arc<AtomicBool>, Alter) {
    let switch = Arc::new(AtomicBool::new(false));
    let on = switch.clone();
    let kept: Mutex<BTreeMap<ResourceType, Arc<Resource>>> = Mutex::default();
    let alter: Alter = Box::new(move |audience, delta: &mut Delta| {
        if audience.service_account != "buyer" {
            return;
        }
        let mut kept = kept.lock().unwrap();
        for kind in [Cluster, Route] {
            let key = (kind, STORE.into());
            if let Some(Some(resource)) = delta.get(&key) {
                kept.insert(kind, resource.clone());
            }
            let new = match (on.load(Ordering::SeqCst), kind) {
                (true, Route) => Some(refused()),
                (true, _) => None,
                (false, _) => kept.get(&kind).cloned(),
            };
            delta.insert(key, new);
        }
    });
    (switch, alter)
}

/// Whether the Envoy has the cluster of the bookstore, by its own word.
async fn knows_the_store(folder: &Path) -> bool {
    let mut stream = UnixStream::connect(folder.join(ADMIN)).await.unwrap();
    stream.write_all(b"GET /clusters HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("controller::"), "{text}");
    text.contains(&format!("{STORE}::"))
}

async fn story(version: &str) {
    let (switch, alter) = with_switch();
    let controller = Controller::start(shop(), Some(alter)).await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("controller.sock"), &controller);
    let _envoy = Envoy::start(version, folder.path(), &controller, "buyer-1", "buyer");
    until_true("the first configuration is acknowledged", || controller.in_sync()).await;
    assert!(knows_the_store(folder.path()).await);

    switch.store(true, Ordering::SeqCst);
    refresh(&controller, "on").await;
    until_true("the route is named", || controller.rejected() == [STORE]).await;
    let told = controller.fleet().report().problems;
    let service = told.iter().find(|problem| problem.kind == "Service" && problem.name == "bookstore");
    assert_eq!(service.map(|problem| problem.reason.as_str()), Some("RejectedByEnvoy"), "{told:?}");

    // What comes after it passes, and the cluster stays: the last good route names it.
    let acks = controller.acks(Endpoint);
    controller.apply(slice(&["10.8.0.7"])).await;
    until_true("the endpoint is acknowledged", || controller.acks(Endpoint) > acks).await;
    assert!(knows_the_store(folder.path()).await, "{version}");

    // The same for an Envoy that was away for a moment.
    let old = controller.proxies.newest().remove(0);
    let acks = controller.acks(Endpoint);
    relay.cut();
    until_true("it is back", || {
        let newest = controller.proxies.newest();
        newest.first().is_some_and(|other| !Arc::ptr_eq(other, &old)) && controller.rejected() == [STORE]
    })
    .await;
    controller.apply(slice(&["10.8.0.8"])).await;
    until_true("the endpoint is acknowledged again", || controller.acks(Endpoint) > acks).await;
    assert!(knows_the_store(folder.path()).await, "{version}");

    switch.store(false, Ordering::SeqCst);
    refresh(&controller, "off").await;
    until_true("all is well again", || controller.in_sync() && controller.rejected().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_envoy_keeps_what_its_last_good_route_names() {
    story("1.36.4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_envoy_keeps_what_its_last_good_route_names() {
    story("1.40.0").await;
}
