//! Two real operators against a real API server; the leader is stopped in the middle of its work, the other takes over
//! and changes things, and the first goes on: it writes nothing.
//!
//! A test binary of its own, because the operator inside the process of the others would lead beside these.
#![allow(clippy::unwrap_used)] // A test binary: a helper that fails should fail the test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::{PolicySource, TrafficSplit};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

#[path = "all/cluster.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod cluster;
#[path = "../../gitops/tests/all/git_server.rs"]
mod git_server;
#[path = "../../gitops/tests/all/work_tree.rs"]
mod work_tree;

use cluster::{client, kubectl, namespace, prepare, said_by_kubectl, until};
use git_server::GitServer;
use work_tree::WorkTree;

const NAMESPACE: &str = "t-fencing";
/// A lease of the tests, so that many rounds take little time.
const SHORT: &[&str] = &["--lease-seconds", "3"];
/// The lease that an installation has.
const SHIPPED: &[&str] = &[];
/// For how long the leader with the shipped lease is stopped: several times that lease.
const STOPPED: Duration = Duration::from_secs(60);
/// Objects of a commit: enough that the leader is stopped among them.
const OBJECTS: usize = 60;

/// An operator that runs; killed when the test is over.
struct Operator {
    name: &'static str,
    child: Child,
}

impl Operator {
    fn start(name: &'static str, lease: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_meshwright-operator"))
            .args(["--namespace", NAMESPACE, "--admin", "127.0.0.1:0"])
            .args(lease)
            .args(["--git-allow", "127.0.0.0/8", "--pod-name", name])
            .env("KUBECONFIG", cluster::kubeconfig())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { name, child }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // One that is stopped is killed all the same; one that has ended needs nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Removes what tests that failed have left: this operator leads everywhere, and a webhook that nobody answers holds up each
/// write for seconds.
fn remove_meshes() {
    for line in said_by_kubectl(&["get", "meshconfigs", "-o", "name"]).lines() {
        kubectl(&["patch", line, "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
        kubectl(&["delete", line]);
    }
    let webhooks = "validatingwebhookconfigurations,mutatingwebhookconfigurations";
    kubectl(&["delete", webhooks, "-l", "app.kubernetes.io/managed-by=meshwright"]);
}

struct Scene {
    client: Client,
    tree: WorkTree,
    server: GitServer,
    _folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        prepare();
        remove_meshes();
        let client = client(None).await;
        namespace(&client, NAMESPACE).await;
        let folder = tempfile::tempdir().unwrap();
        let tree = WorkTree::init(&folder.path().join("r"));
        let server = GitServer::start(folder.path());
        Self { client, tree, server, _folder: folder }
    }

    fn commit(&self, weight: usize) -> String {
        let split = |n: usize| {
            format!(
                "---\napiVersion: split.smi-spec.io/v1alpha4\nkind: TrafficSplit\nmetadata: {{name: split-{n}}}\n\
                 spec: {{service: s, backends: [{{service: v1, weight: {weight}}}]}}\n"
            )
        };
        let text: String = (0..OBJECTS).map(split).collect();
        self.tree.commit("x", &[("a.yaml", &text)])
    }

    async fn source(&self) -> PolicySource {
        let api: Api<PolicySource> = Api::namespaced(self.client.clone(), NAMESPACE);
        api.get("policies").await.unwrap()
    }

    async fn attempted(&self, commit: &str) {
        until("the commit to be looked at", || async {
            let status = self.source().await.status.unwrap_or_default();
            let found = status.attempted.unwrap_or_default().commit;
            if found == commit { Ok(()) } else { Err(found) }
        })
        .await;
    }

    async fn in_force(&self, commit: &str) {
        until("the commit to be in force", || async {
            let status = self.source().await.status.unwrap_or_default();
            let found = status.applied.clone().unwrap_or_default().commit;
            if found == commit { Ok(()) } else { Err(serde_json::to_string(&status).unwrap()) }
        })
        .await;
    }

    async fn remove_source(&self) {
        let sources: Api<PolicySource> = Api::namespaced(self.client.clone(), NAMESPACE);
        let _ = sources.delete("policies", &DeleteParams::default()).await;
        until("the source to go", || async {
            sources.get_opt("policies").await.unwrap().map_or(Ok(()), |_| Err("it is there".to_owned()))
        })
        .await;
    }

    async fn lease(&self) -> (String, i32) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        let spec = api.get_opt("meshwright-operator").await.unwrap().and_then(|lease| lease.spec);
        let spec = spec.unwrap_or_default();
        (spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default())
    }

    async fn led_by(&self, who: &str) -> i32 {
        until("the lease to be taken", || async {
            let (holder, term) = self.lease().await;
            if holder == who { Ok(term) } else { Err(holder) }
        })
        .await
    }

    /// Every object and its version, and what the source says.
    async fn state(&self) -> (Vec<(String, Option<String>, i32)>, String) {
        let splits: Api<TrafficSplit> = Api::namespaced(self.client.clone(), NAMESPACE);
        let list = splits.list(&ListParams::default()).await.unwrap();
        let facts = |split: &TrafficSplit| {
            (split.name_any(), split.resource_version(), split.spec.backends[0].weight)
        };
        (list.iter().map(facts).collect(), serde_json::to_string(&self.source().await.status).unwrap())
    }
}

/// What the story has come to: the weight in the newest commit, and the term of who leads.
struct Story<'a> {
    scene: &'a Scene,
    weight: usize,
    term: i32,
}

impl Story<'_> {
    fn commit(&mut self) -> String {
        self.weight += 1;
        self.scene.commit(self.weight)
    }

    /// Stops the leader in the middle of bringing a commit into force; the next one takes over and brings another.
    async fn depose(&mut self, leader: &Operator, next: Operator) -> Operator {
        let half = self.commit();
        self.scene.attempted(&half).await;
        leader.signal(Signal::STOP);
        let later = self.scene.led_by(next.name).await;
        assert!(later > self.term, "each leadership has a higher term: {later} after {}", self.term);
        self.term = later;
        let newest = self.commit();
        self.scene.in_force(&newest).await;
        next
    }

    /// Lets a stopped one go on: it gives up and has written nothing.
    async fn wake(&self, mut stopped: Operator) {
        let before = settled(self.scene).await;
        stopped.signal(Signal::CONT);
        until("the stopped leader to give up", || {
            let ended = stopped.child.try_wait().unwrap();
            std::future::ready(ended.map(|_| ()).ok_or_else(|| "it goes on".to_owned()))
        })
        .await;
        assert_eq!(self.scene.state().await, before, "the stopped leader wrote");
        let term = self.scene.source().await.status.unwrap().leader_term;
        assert_eq!(term, Some(i64::from(self.term)));
    }
}

/// The first leader has the lease of an installation and is stopped for a minute; while it is, three others are stopped and
/// woken, each with a short lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_stopped_writes_nothing_after_another_took_over() {
    let scene = Scene::new().await;
    let leases: Api<Lease> = Api::namespaced(scene.client.clone(), NAMESPACE);
    // What an earlier run left, which had no operator to clean up after it any more.
    let _ = leases.delete("meshwright-operator", &DeleteParams::default()).await;
    let long = Operator::start("long", SHIPPED);
    let mut story = Story { scene: &scene, weight: 0, term: scene.led_by("long").await };
    scene.remove_source().await;
    let first = story.commit();
    let git = json!({"git": {"url": format!("{}/r/.git", scene.server.url)}, "interval": "1s"});
    let source = PolicySource::new("policies", serde_json::from_value(git).unwrap());
    let sources: Api<PolicySource> = Api::namespaced(scene.client.clone(), NAMESPACE);
    sources.create(&PostParams::default(), &source).await.unwrap();
    scene.in_force(&first).await;
    let mut leader = story.depose(&long, Operator::start("a", SHORT)).await;
    let since = Instant::now();
    for next in ["b", "a", "b"] {
        let next = story.depose(&leader, Operator::start(next, SHORT)).await;
        story.wake(std::mem::replace(&mut leader, next)).await;
    }
    tokio::time::sleep(STOPPED.saturating_sub(since.elapsed())).await;
    story.wake(long).await;
    // Nobody's objects are left to the next run.
    scene.remove_source().await;
}

/// The state once the leader has nothing more to do: all objects are of the newest commit, and two looks are equal.
async fn settled(scene: &Scene) -> (Vec<(String, Option<String>, i32)>, String) {
    let last = std::cell::RefCell::new(None);
    until("quiet", || async {
        let state = scene.state().await;
        let before = last.replace(Some(state.clone()));
        let one = state.0.iter().all(|(_, _, weight)| *weight == state.0[0].2);
        if before.as_ref() == Some(&state) && one { Ok(state) } else { Err(state.1) }
    })
    .await
}
