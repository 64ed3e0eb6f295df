//! Scripted streams: each rule of the session, and each case that is known to have broken other servers.

use std::time::Duration;

use super::flush::CUT;
use super::*;
use crate::xds::served::Pool;
use crate::xds::trial::{Canaries, Who};
use crate::xds::wire::{SemanticVersion, Status};
use bytes::Bytes;
use mesh::ResourceType::{Cluster, Endpoint, Listener, Route};
use mesh::{Delta, Resource};

mod any_client;
mod budgets;
mod canary;
mod hostile;
mod identities;
mod order;
mod refusals;
mod safety;

/// A control plane and one client, in a few words each.
struct Script {
    pool: Arc<parking_lot::Mutex<Pool>>,
    served: Arc<Served>,
    session: Session,
}

/// Resources: type, name, version. Words after the version are the clusters that the resource names.
type Say<'a> = &'a [(ResourceType, &'a str, &'a str)];

/// A sidecar of the shop with Envoy 1.0.0.
const POD: Who<'static> = Who {
    account: "spiffe://cluster.local/ns/shop/sa/buyer",
    proxy: "shop/pod",
    envoy: SemanticVersion { major: 1, minor: 0, patch: 0 },
};

/// From what was served to these resources.
fn delta(served: &Served, resources: Say<'_>) -> Delta {
    let held =
        ResourceType::ALL.into_iter().flat_map(|kind| served.of(kind).keys().map(move |name| (kind, name)));
    let mut delta: Delta = held.map(|(kind, name)| ((kind, name.clone()), None)).collect();
    for (kind, name, version) in resources {
        let body = Bytes::from(format!("{name}={version}"));
        let clusters = version.split(' ').skip(1).map(Into::into).collect();
        let resource = Resource { name: (*name).to_owned(), version: (*version).to_owned(), body, clusters };
        delta.insert((*kind, (*name).into()), Some(Arc::new(resource)));
    }
    delta
}

fn request(kind: ResourceType, names: &[&str]) -> DeltaRequest {
    DeltaRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaRequest::default()
    }
}

fn holding(kind: ResourceType, names: &[&str], held: &[(&str, &str)]) -> DeltaRequest {
    let versions = held.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned()));
    DeltaRequest { initial_resource_versions: versions.collect(), ..request(kind, names) }
}

/// A response as `Cluster +a=1 +b=1 -c`.
fn show(response: &DeltaResponse) -> String {
    let kind = ResourceType::from_type_url(&response.type_url).unwrap();
    let mut text = kind.as_str().to_owned();
    for body in &response.resources {
        text.push_str(&format!(" +{}", String::from_utf8_lossy(body)));
    }
    for name in &response.removed_resources {
        text.push_str(&format!(" -{name}"));
    }
    text
}

fn shown(responses: &[DeltaResponse]) -> Vec<String> {
    responses.iter().map(show).collect()
}

impl Script {
    fn new(resources: Say<'_>) -> Self {
        Self::with(&Arc::new(Canaries::new(Duration::MAX)), POD, &Arc::default(), resources)
    }

    /// One stream of several to one replica.
    fn with(
        canaries: &Arc<Canaries>,
        who: Who<'_>,
        pool: &Arc<parking_lot::Mutex<Pool>>,
        resources: Say<'_>,
    ) -> Self {
        let served = Arc::new(Served::first(delta(&Served::default(), resources), &mut pool.lock()));
        let session = Session::new(served.clone(), canaries.gate(who));
        Self { pool: pool.clone(), served, session }
    }

    fn serve(&mut self, resources: Say<'_>) -> Vec<DeltaResponse> {
        let next = self.served.next(delta(&self.served, resources), &mut self.pool.lock());
        let next = next.expect("something must differ");
        self.served = Arc::new(next);
        self.session.on_snapshot(self.served.clone())
    }

    fn ask(&mut self, request: &DeltaRequest) -> Vec<DeltaResponse> {
        self.session.on_request(request).unwrap().responses
    }

    fn ack(&mut self, response: &DeltaResponse) -> Vec<DeltaResponse> {
        let outcome = self.session.on_request(&answer(response, None)).unwrap();
        assert!(matches!(outcome.said, Said::Accepted(_)), "{:?}", outcome.said);
        outcome.responses
    }

    fn nack(&mut self, response: &DeltaResponse) -> Vec<DeltaResponse> {
        let outcome = self.session.on_request(&answer(response, Some("Envoy says no"))).unwrap();
        assert!(matches!(outcome.said, Said::Refused(_)), "{:?}", outcome.said);
        outcome.responses
    }

    /// Acknowledges everything until nothing more comes; returns all that came.
    fn settle(&mut self, responses: Vec<DeltaResponse>) -> Vec<String> {
        let mut seen = Vec::new();
        let mut queue = std::collections::VecDeque::from(responses);
        while let Some(response) = queue.pop_front() {
            seen.push(show(&response));
            assert!(seen.len() < 100, "never settles: {seen:?}");
            queue.extend(self.ack(&response));
        }
        seen
    }
}

fn answer(response: &DeltaResponse, error: Option<&str>) -> DeltaRequest {
    DeltaRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|text| Status { code: 13, message: text.to_owned() }),
        ..DeltaRequest::default()
    }
}

#[test]
fn a_first_wildcard_request_gets_everything() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "b", "1"), (Route, "r", "1")]);
    let responses = script.ask(&request(Cluster, &[]));
    assert_eq!(shown(&responses), ["Cluster +a=1 +b=1"]);
    assert!(script.ack(&responses[0]).is_empty());
    assert_eq!(script.session.held(), [2, 0, 0, 0]);
}

#[test]
fn a_first_wildcard_request_is_answered_even_if_there_is_nothing() {
    let mut script = Script::new(&[]);
    assert_eq!(shown(&script.ask(&request(Listener, &["*"]))), ["Listener"]);
}

#[test]
fn a_name_that_does_not_exist_is_answered_as_removed() {
    let mut script = Script::new(&[(Endpoint, "a", "1")]);
    let responses = script.ask(&request(Endpoint, &["a", "gone"]));
    assert_eq!(shown(&responses), ["Endpoint +a=1 -gone"]);
    script.ack(&responses[0]);
    // It comes when it exists.
    assert_eq!(shown(&script.serve(&[(Endpoint, "a", "1"), (Endpoint, "gone", "1")])), ["Endpoint +gone=1"]);
}

#[test]
fn only_what_is_subscribed_to_is_sent() {
    let mut script = Script::new(&[(Endpoint, "a", "1"), (Endpoint, "b", "1")]);
    let responses = script.ask(&request(Endpoint, &["a"]));
    script.settle(responses);
    assert!(script.serve(&[(Endpoint, "a", "1"), (Endpoint, "b", "2")]).is_empty());
}

#[test]
fn a_reconnect_is_nearly_free() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "b", "2"), (Endpoint, "a", "1")]);
    let responses = script.ask(&holding(Cluster, &["*"], &[("a", "1"), ("b", "2")]));
    assert_eq!(shown(&responses), ["Cluster"], "an answer, with nothing in it");
    assert!(script.ask(&holding(Endpoint, &["a"], &[("a", "1")])).is_empty());
    assert_eq!(script.session.held()[..2], [2, 1]);
}

#[test]
fn a_reconnect_gets_only_the_difference() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "b", "2"), (Cluster, "c", "1")]);
    let responses = script.ask(&holding(Cluster, &["*"], &[("a", "1"), ("b", "1")]));
    assert_eq!(shown(&responses), ["Cluster +b=2 +c=1"]);
}

/// istio/istio#41494
#[test]
fn what_vanished_while_the_proxy_was_away_is_removed() {
    let mut script = Script::new(&[(Cluster, "a", "1")]);
    let responses = script.ask(&holding(Cluster, &["*"], &[("a", "1"), ("gone", "7")]));
    assert_eq!(shown(&responses), ["Cluster -gone"]);
    script.ack(&responses[0]);
    assert_eq!(script.session.held()[0], 1);
}

/// A client that comes back tells type by type what it holds.
#[test]
fn what_vanished_goes_when_nothing_can_name_it_any_more() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Listener, "out|a", "1"), (Route, "out|a", "2 a")]);
    assert!(script.ask(&holding(Cluster, &["*"], &[("a", "1"), ("gone", "1")])).is_empty());
    let sent = script.ask(&holding(Listener, &["*"], &[("out|a", "1")]));
    assert_eq!(script.settle(sent), ["Listener"], "an answer, with nothing in it");
    let sent = script.ask(&holding(Route, &["out|a"], &[("out|a", "1")]));
    assert_eq!(script.settle(sent), ["Route +out|a=2 a", "Cluster -gone"]);
}

/// envoyproxy/envoy#22418
#[test]
fn a_name_subscribed_to_again_is_sent_again() {
    let mut script = Script::new(&[(Route, "r", "1")]);
    let responses = script.ask(&request(Route, &["r"]));
    script.settle(responses);
    assert_eq!(shown(&script.ask(&request(Route, &["r"]))), ["Route +r=1"]);
}

/// envoyproxy/envoy#20699
#[test]
fn an_old_version_that_the_client_reports_is_replaced_and_foreign_ones_do_no_harm() {
    let mut script = Script::new(&[(Listener, "l", "2")]);
    let odd = holding(Listener, &[], &[("l", "not-one-of-ours \u{1F980}")]);
    assert_eq!(shown(&script.ask(&odd)), ["Listener +l=2"]);
}

/// envoyproxy/go-control-plane#615: what the client holds is changed by its own word only, also when it
/// unsubscribes and subscribes while a response is on its way.
#[test]
fn resubscribing_while_a_response_is_on_its_way_loses_nothing() {
    let mut script = Script::new(&[(Endpoint, "a", "1")]);
    let first = script.ask(&request(Endpoint, &["a"]));
    let mut leave = request(Endpoint, &[]);
    leave.resource_names_unsubscribe = vec!["a".to_owned()];
    assert!(script.ask(&leave).is_empty());
    assert!(script.ask(&request(Endpoint, &["a"])).is_empty(), "its type waits for the acknowledgement");
    let again = script.ack(&first[0]);
    assert_eq!(shown(&again), ["Endpoint +a=1"]);
    script.settle(again);
    assert_eq!(shown(&script.serve(&[(Endpoint, "a", "2")])), ["Endpoint +a=2"]);
}

/// openservicemesh/osm#3252
#[test]
fn a_foreign_nonce_on_a_new_stream_is_ignored() {
    let mut script = Script::new(&[(Cluster, "a", "1")]);
    let mut odd = request(Cluster, &["*"]);
    odd.response_nonce = "77".to_owned();
    odd.error_detail = Some(Status { code: 13, message: "of another stream".to_owned() });
    let outcome = script.session.on_request(&odd).unwrap();
    assert_eq!(outcome.said, Said::Foreign);
    assert_eq!(shown(&outcome.responses), ["Cluster +a=1"]);
    assert_eq!(script.session.rejections(), Rejections::default());
}

#[test]
fn the_acknowledgement_is_the_clock() {
    let mut script = Script::new(&[(Endpoint, "a", "1")]);
    let first = script.ask(&request(Endpoint, &["a"]));
    for version in ["2", "3", "4"] {
        assert!(script.serve(&[(Endpoint, "a", version)]).is_empty(), "waits");
    }
    assert_eq!(shown(&script.ack(&first[0])), ["Endpoint +a=4"], "the newest only");
}

#[test]
fn a_change_that_is_taken_back_while_waiting_is_not_sent() {
    let mut script = Script::new(&[(Endpoint, "a", "1")]);
    let first = script.ask(&request(Endpoint, &["a"]));
    script.serve(&[(Endpoint, "a", "2")]);
    script.serve(&[(Endpoint, "a", "1")]);
    assert!(script.ack(&first[0]).is_empty());
}

#[test]
fn responses_are_cut_and_all_of_them_must_be_acknowledged() {
    let names: Vec<String> = (0..40).map(|n| format!("{n:04}-{}", "x".repeat(4000))).collect();
    let resource = |name: &String| {
        let body = Bytes::from(name.clone());
        Arc::new(Resource { name: name.clone(), version: "1".to_owned(), body, clusters: Arc::default() })
    };
    let all = names.iter().map(|name| ((Cluster, name.as_str().into()), Some(resource(name))));
    let served = Arc::new(Served::first(all.collect(), &mut Pool::default()));
    let mut session = Session::new(served, Arc::new(Canaries::default()).gate(POD));
    let responses = session.on_request(&request(Cluster, &[])).unwrap().responses;
    let sizes: Vec<usize> = responses.iter().map(|r| r.resources.iter().map(Bytes::len).sum()).collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size <= CUT), "{sizes:?}");
    for response in responses.iter().rev() {
        assert!(session.waits_for().is_some());
        session.on_request(&answer(response, None)).unwrap();
    }
    assert_eq!((session.waits_for(), session.held()[0]), (None, 40));
}

#[test]
fn in_sync_means_acknowledged_by_a_client_that_has_asked() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Listener, "l", "1")]);
    assert!(!script.session.in_sync());
    let clusters = script.ask(&request(Cluster, &[]));
    let listeners = script.ask(&request(Listener, &[]));
    script.ack(&clusters[0]);
    assert!(!script.session.in_sync());
    script.ack(&listeners[0]);
    assert!(script.session.in_sync());
}

#[test]
fn another_audience_is_a_difference_like_any_other() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let responses = script.ask(&request(Cluster, &[]));
    script.settle(responses);
    let other = delta(&Served::default(), &[(Cluster, "b", "1"), (Cluster, "c", "1")]);
    let other = Served::first(other, &mut script.pool.lock());
    let sent = script.session.on_snapshot(Arc::new(other));
    assert_eq!(script.settle(sent), ["Cluster +c=1", "Cluster -a"]);
}

#[test]
fn leaving_the_wildcard_keeps_what_is_named() {
    let mut script = Script::new(&[(Cluster, "a", "1"), (Cluster, "b", "1")]);
    let responses = script.ask(&request(Cluster, &["*", "a"]));
    script.settle(responses);
    // A name that the wildcard still covers is sent again (xDS protocol, "unsubscribing from resources").
    let mut leave = request(Cluster, &[]);
    leave.resource_names_unsubscribe = vec!["a".to_owned()];
    let sent = script.ask(&leave);
    assert_eq!(script.settle(sent), ["Cluster +a=1"]);
    let mut leave = request(Cluster, &["b"]);
    leave.resource_names_unsubscribe = vec!["*".to_owned()];
    let sent = script.ask(&leave);
    assert_eq!(script.settle(sent), ["Cluster +b=1"]);
    assert!(script.serve(&[(Cluster, "a", "2"), (Cluster, "b", "1")]).is_empty());
}
