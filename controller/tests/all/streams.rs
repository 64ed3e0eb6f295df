//! What one pod's streams may take of a replica.

use std::time::{Duration, Instant};

use bytes::Bytes;
use controller::metrics::{End, Ended};
use controller::xds::body::frame;
use controller::xds::door::{Door, Manners};
use controller::xds::leave::Leaving;
use controller::xds::server::Limits;
use controller::xds::share::end_oldest;
use controller::xds::wire::DeltaRequest;
use mesh::ResourceType;

use crate::leave::Replica;
use crate::support::until_true;

async fn replica(door: Door, limits: Limits) -> Replica {
    Replica::start_with(Leaving::default(), 3, door, limits).await
}

/// `UNAVAILABLE`: Envoy tries again, at a pace of its own.
const TRY_AGAIN: Option<&str> = Some("14");
/// `RESOURCE_EXHAUSTED`.
const TOO_MUCH: Option<&str> = Some("8");

/// X7: so that a replica that was started later gets its share.
#[tokio::test]
async fn a_stream_ends_without_an_error_when_it_is_old() {
    let limits = Limits { age: Duration::from_millis(50), ..Limits::default() };
    let replica = replica(Door::default(), limits).await;
    let mut stream = replica.open(1).await;
    while stream.goes_on().await {}
    until_true("it is counted", || {
        replica.metrics.ended.get_or_create(&Ended { reason: End::Aged }).get() == 1
            && replica.metrics.streams.get() == 0
    })
    .await;
    assert!(replica.proxies.newest().is_empty());
}

/// X7: so that one that was there first does not keep them all.
#[tokio::test]
async fn the_oldest_streams_leave_a_replica_that_has_more_than_its_share() {
    let replica = replica(Door::default(), Limits::default()).await;
    let (mut first, mut second, _third) =
        (replica.open(1).await, replica.open(2).await, replica.open(3).await);
    let (now, hour) = (Instant::now(), Duration::from_secs(3600));
    assert_eq!(end_oldest(&replica.proxies, 2, hour, now), 0, "they are too young");
    assert_eq!(end_oldest(&replica.proxies, 2, hour, now + hour), 2);
    while first.goes_on().await {}
    while second.goes_on().await {}
    let left = Ended { reason: End::OverShare };
    until_true("they are counted", || {
        replica.metrics.ended.get_or_create(&left).get() == 2 && replica.metrics.streams.get() == 1
    })
    .await;
    assert_eq!(replica.proxies.newest()[0].pod.name, "buyer-3");
    replica.open(1).await;
}

#[tokio::test]
async fn a_pod_that_comes_back_in_a_loop_is_turned_away_and_others_are_not() {
    let hour = Duration::from_secs(3600);
    let manners = Manners { burst: 5, each: hour, patience: Duration::from_millis(1), ..Manners::default() };
    let replica = replica(Door::new(manners), Limits::default()).await;
    // From here on the mesh knows the pods.
    replica.open(3).await;
    for _ in 0..5 {
        replica.open(1).await;
    }
    for _ in 0..20 {
        let mut stream = replica.ask(1, "0.1.0").await;
        assert_eq!(stream.next().await.as_deref(), TRY_AGAIN);
    }
    replica.open(2).await;
}

#[tokio::test]
async fn a_full_replica_sends_the_next_one_on() {
    let replica = replica(Door::new(Manners { most: 1, ..Manners::default() }), Limits::default()).await;
    let first = replica.open(1).await;
    let mut second = replica.ask(2, "0.1.0").await;
    assert_eq!(second.next().await.as_deref(), TRY_AGAIN);
    drop(first);
    until_true("there is room", || replica.metrics.streams.get() == 0).await;
    replica.open(3).await;
}

/// S13
#[tokio::test]
async fn what_a_sidecar_says_of_itself_is_short_in_the_report() {
    let replica = replica(Door::default(), Limits::default()).await;
    let mut stream = replica.ask(1, &"9.".repeat(1 << 20)).await;
    assert!(stream.goes_on().await);
    let version = replica.proxies.newest()[0].version.clone();
    assert!(version.starts_with("9.9.") && version.len() < 100, "{} bytes", version.len());
}

#[tokio::test]
async fn a_flood_is_read_at_a_pace_and_the_neighbour_is_served() {
    let replica = replica(Door::default(), Limits::default()).await;
    let (flood, mut neighbour) = (replica.open(1).await, replica.open(2).await);
    let names = |sign: bool| {
        let names = || (0..1000).map(|number| format!("unknown-{number}")).collect();
        let mut request =
            DeltaRequest { type_url: ResourceType::Route.type_url().to_owned(), ..DeltaRequest::default() };
        if sign {
            request.resource_names_subscribe = names();
        } else {
            request.resource_names_unsubscribe = names();
        }
        frame(&request)
    };
    let (requests, both) = (flood.requests.clone(), [names(true), names(false)]);
    let task = tokio::spawn(async move {
        let mut sent = 0_u64;
        for request in both.iter().cycle() {
            if requests.send(Ok(Bytes::clone(request))).await.is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    until_true("it is paused", || replica.metrics.paused.get() > 0).await;
    neighbour.subscribe(ResourceType::Endpoint, Some("out|shop|bookstore|80"), None).await;
    assert!(neighbour.goes_on().await, "it is answered");
    drop(flood);
    task.abort();
}

#[tokio::test]
async fn names_that_nothing_has_end_the_stream_when_they_are_too_many() {
    let replica = replica(Door::default(), Limits::default()).await;
    let mut stream = replica.open(1).await;
    let request = DeltaRequest {
        type_url: ResourceType::Route.type_url().to_owned(),
        resource_names_subscribe: (0..60_000).map(|number| format!("unknown-{number}")).collect(),
        ..DeltaRequest::default()
    };
    stream.requests.send(Ok(frame(&request))).await.unwrap();
    let mut status = stream.next().await;
    while status.is_none() {
        status = stream.next().await;
    }
    assert_eq!(status.as_deref(), TOO_MUCH);
    until_true("it is counted", || {
        replica.metrics.ended.get_or_create(&Ended { reason: End::Violation }).get() == 1
    })
    .await;
}
