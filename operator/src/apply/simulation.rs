//! Two leaders and an API server, with arbitrary pauses between any two actions: the real [`Writer`] and fence, a
//! simulated server, and a schedule that decides whose request arrives next. A request that has left a process may
//! arrive long after another process has taken over.

use std::sync::Arc;
use std::time::Duration;

use crds::PolicySource;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use kube::{Api, Client};
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tower::{BoxError, Layer};

use super::fence::Fence;
use super::*;

/// Whether the server looks at resource versions; that it must is what the second test shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Versions {
    Checked,
    Ignored,
}

/// An object, its version, and the latest term in which it was written.
struct Server {
    versions: Versions,
    child: Value,
    owner: Value,
    next: u64,
    written: usize,
    overwritten: Vec<String>,
}

impl Server {
    fn new(versions: Versions) -> Self {
        let child = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
            {"name": "child", "namespace": "shop", "resourceVersion": "1"}, "data": {"term": "0"}});
        let owner = json!({"apiVersion": "meshwright.io/v1alpha1", "kind": "PolicySource", "metadata":
            {"name": "owner", "namespace": "shop", "resourceVersion": "2"}, "spec": {"git": {"url": "/r"}}});
        Self { versions, child, owner, next: 3, written: 0, overwritten: Vec::new() }
    }

    fn answer(&mut self, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
        let is_owner = path.contains("/policysources/owner");
        let object = if is_owner { &mut self.owner } else { &mut self.child };
        if method == Method::GET {
            return (StatusCode::OK, object.clone());
        }
        assert_eq!(method, Method::PATCH, "{path}");
        let body: Value = serde_json::from_slice(body).expect("a patch");
        let version = &body["metadata"]["resourceVersion"];
        assert!(version.is_string(), "a write that carries nothing that it read: {body}");
        if self.versions == Versions::Checked && *version != object["metadata"]["resourceVersion"] {
            let status =
                json!({"status": "Failure", "message": "conflict", "reason": "Conflict", "code": 409});
            return (StatusCode::CONFLICT, status);
        }
        let (before, after) = (term(object), term(&body));
        if after < before {
            self.overwritten.push(format!("{path}: term {after} over term {before}"));
        }
        for part in ["data", "status"] {
            if !body[part].is_null() {
                object[part] = body[part].clone();
            }
        }
        object["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
        object["metadata"]["resourceVersion"] = json!(self.next.to_string());
        self.next += 1;
        self.written += 1;
        (StatusCode::OK, object.clone())
    }
}

fn term(object: &Value) -> i64 {
    let data = object["data"]["term"].as_str().and_then(|term| term.parse().ok());
    data.or(object["status"]["leaderTerm"].as_i64()).unwrap_or(0)
}

/// A request on its way.
struct Pending {
    request: Request<Body>,
    reply: oneshot::Sender<Response<Body>>,
}

struct Process {
    mandate: Mandate,
    network: mpsc::UnboundedReceiver<Pending>,
}

impl Process {
    fn start() -> Self {
        let (sender, network) = mpsc::unbounded_channel();
        let mandate = Mandate::default();
        // What it sends stays in the network until the schedule lets it arrive.
        let network_of = tower::service_fn(move |request: Request<Body>| {
            let (reply, answer) = oneshot::channel();
            let sent = sender.send(Pending { request, reply });
            async move {
                sent.map_err(|_| "the simulation is over")?;
                Ok::<_, BoxError>(answer.await?)
            }
        });
        let client = Client::new(Fence(mandate.clone()).layer(network_of), "shop");
        tokio::spawn(lead(client.clone(), Writer::new(client, mandate.clone())));
        Self { mandate, network }
    }
}

/// What a leader does for ever: reads its owner, writes a child, writes the owner's status; all in its term.
async fn lead(client: Client, writer: Writer) {
    let api: Api<PolicySource> = Api::namespaced(client, "shop");
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::ConfigMap>(&());
    loop {
        let (Ok(owner), Ok(term)) = (api.get("owner").await, writer.term()) else {
            tokio::task::yield_now().await;
            continue;
        };
        let before = owner.status.clone();
        if writer.yield_to("owner", before.as_ref().and_then(Termed::term)).is_err() {
            continue;
        }
        let child = DynamicObject::new("child", &resource).within("shop");
        let child = child.data(json!({"data": {"term": term.to_string()}}));
        // What is refused is tried again, as a reconciler does.
        let _ = writer.apply(MANAGER, &child).await;
        let after = before.clone().unwrap_or_default();
        let _ = writer.status(&api, &owner, before.as_ref(), &after).await;
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The oldest request of a process arrives and is answered: of the newest one (0), of the one before it (1), …
    Arrive(usize),
    /// The lease of whoever leads expires, and a new process takes it. One that was deposed never leads again: it exits.
    TakeOver,
}

async fn run(versions: Versions, steps: &[Step]) -> Server {
    let server = Arc::new(Mutex::new(Server::new(versions)));
    let mut processes: Vec<Process> = Vec::new();
    for step in [Step::TakeOver].iter().chain(steps) {
        settle().await;
        match *step {
            Step::TakeOver => {
                // The lease is over for whoever had it, by the clocks of both.
                processes.iter().for_each(|process| process.mandate.end());
                processes.push(Process::start());
                let (term, newest) = (processes.len() as i64, &processes[processes.len() - 1]);
                newest.mandate.grant(term, Instant::now() + Duration::from_secs(3600));
            }
            Step::Arrive(back) => {
                let process = processes.iter_mut().rev().nth(back);
                let Some(pending) = process.and_then(|process| process.network.try_recv().ok()) else {
                    continue;
                };
                let (parts, body) = pending.request.into_parts();
                let body = body.collect_bytes().await.expect("in memory");
                let (status, answer) = server.lock().answer(&parts.method, parts.uri.path(), &body);
                let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                let response = Response::builder().status(status).body(answer).expect("a response");
                // Whoever asked may have given up.
                let _ = pending.reply.send(response);
            }
        }
    }
    drop(processes);
    Arc::into_inner(server).expect("nobody else has it").into_inner()
}

/// Lets every task go on until it waits for the network.
async fn settle() {
    for _ in 0..40 {
        tokio::task::yield_now().await;
    }
}

fn simulate(versions: Versions, steps: &[Step]) -> Server {
    runtime::install_default();
    let tokio = tokio::runtime::Builder::new_current_thread().build();
    tokio.expect("a runtime").block_on(run(versions, steps))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![9 => (0..3usize).prop_map(Step::Arrive), 1 => Just(Step::TakeOver)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_stale_leader_overwrites_nothing(steps in prop::collection::vec(step(), 1..120)) {
        let server = simulate(Versions::Checked, &steps);
        prop_assert_eq!(server.overwritten, Vec::<String>::new());
    }
}

#[test]
fn leaders_write_and_the_simulation_would_see_an_overwriting() {
    use Step::{Arrive, TakeOver};
    // Reads the owner and the child; its write of the child is on its way. The other takes over and writes; it arrives.
    let late: Vec<_> =
        [Arrive(0), Arrive(0), TakeOver].into_iter().chain([Arrive(0); 8]).chain([Arrive(1)]).collect();
    let careless = simulate(Versions::Ignored, &late);
    assert_eq!(careless.overwritten.len(), 1, "{:?}", careless.overwritten);
    let careful = simulate(Versions::Checked, &late);
    assert!(careful.overwritten.is_empty() && careful.written >= 2 && term(&careful.child) == 2);
}
