//! Upgrades against a real API server with its controllers: real Deployments, PodDisruptionBudgets and evictions, and
//! the real control-plane reconciler. What this tier has not: kubelets, injectors and controllers of ours. The tests
//! play them: a pod gets its namespace's revision as an injector would give it, becomes ready as a kubelet would
//! report it, and its sidecar counts as connected. The node tier (tests/e2e) has all three.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use crds::mesh_upgrade::{StepState, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade, labels};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use operator::context::Context;
use operator::upgrade::execute::Done;
use operator::upgrade::gather::Remembered;
use operator::upgrade::{self};
use serde_json::{Value, json};

use crate::cluster::{client, context, until};

mod format;
pub mod scene;
mod steering;
mod validator;

use scene::{AllInSync, Scene};

#[tokio::test]
async fn namespaces_move_in_order_under_their_budgets_and_single_replicas_surge() {
    let scene = Scene::new("u-order", &["a", "b"]).await;
    let (a, b) = (scene.namespaces[0].clone(), scene.namespaces[1].clone());
    scene.deployment(&a, "web", 3).await;
    scene.budget(&a, "web", 2).await;
    scene.deployment(&b, "lone", 1).await;
    scene.want("0.2.0").await;
    let before = std::sync::Mutex::new(Vec::<crds::mesh_upgrade::StepStatus>::new());
    scene
        .run(UpgradePhase::Complete, async |scene| {
            let web = scene.ready(&a, "web").await;
            assert!(web.values().sum::<usize>() >= 2, "{web:?}");
            let lone = scene.ready(&b, "lone").await;
            assert!(lone.values().sum::<usize>() >= 1, "{lone:?}");
            // The record is only added to.
            let steps = scene.status().await.steps;
            let earlier = std::mem::replace(&mut *before.lock().unwrap(), steps.clone());
            for step in earlier.iter().filter(|step| step.finished_at.is_some()) {
                assert!(steps.contains(step), "rewritten: {step:#?}\n{steps:#?}");
            }
            if scene.revision(&b).await.as_deref() == Some("0.2.0") {
                assert_eq!(web.keys().collect::<Vec<_>>(), ["0.2.0"], "b began before a was done");
            }
        })
        .await;
    assert_eq!(scene.ready(&a, "web").await, BTreeMap::from([("0.2.0".to_owned(), 3)]));
    assert_eq!(scene.ready(&b, "lone").await, BTreeMap::from([("0.2.0".to_owned(), 1)]));
    let deployments: Api<Deployment> = Api::namespaced(scene.client.clone(), &b);
    let template = deployments.get("lone").await.unwrap().spec.unwrap().template.metadata.unwrap();
    assert_eq!(template.annotations.unwrap()[labels::MOVED_TO], "0.2.0");
    let web = Api::<Deployment>::namespaced(scene.client.clone(), &a).get("web").await.unwrap();
    assert_eq!(web.metadata.generation, Some(1), "eviction leaves the template as its owner wrote it");
    let control_plane: Api<Deployment> = Api::namespaced(scene.client.clone(), &scene.system);
    assert!(control_plane.get_opt(&labels::controller_name("0.1.0")).await.unwrap().is_none());
    let status = scene.status().await;
    assert_eq!((status.progress.as_str(), status.waiting_on.as_str()), ("4/4 pods", ""));
    assert!(status.steps.iter().all(|step| step.state == StepState::Done), "{:#?}", status.steps);
    assert!(status.started.is_some() && status.finished.is_some());
    // What was done, how and when, as it happened.
    let step = |id: String| status.steps.iter().find(|step| step.id == id).unwrap_or_else(|| panic!("{id}"));
    let web = step(format!("workload/{a}/Deployment/web"));
    assert_eq!((web.done.len(), web.done[0].pods, web.done[0].names.len()), (1, 3, 3), "{web:#?}");
    assert!(web.step.contains("to 0.2.0 (3/3) by eviction, one pod at a time"), "{}", web.step);
    assert!(web.started_at.is_some() && web.finished_at.is_some());
    let lone = step(format!("workload/{b}/Deployment/lone"));
    assert!(lone.step.contains("to 0.2.0 (1/1) by a roll-out"), "{}", lone.step);
    assert_eq!(lone.done[0].pods, 1);
    let events: Api<Event> = Api::namespaced(scene.client.clone(), &a);
    let events = events.list(&ListParams::default()).await.unwrap();
    let evicted = events.iter().filter(|event| event.reason.as_deref() == Some("PodEvicted"));
    assert!(
        evicted.filter(|event| event.regarding.as_ref().unwrap().name.as_deref() == Some("web")).count() >= 1
    );
    // Once it is over, nothing begins again.
    scene.pass().await;
    assert_eq!(scene.status().await, status);
    scene.remove().await;
}

#[tokio::test]
async fn an_exhausted_budget_is_waited_for_and_the_api_server_would_refuse() {
    let scene = Scene::new("u-budget", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 2).await;
    scene.budget(&a, "web", 2).await;
    let pods = scene.pods(&a).await;
    scene.want("0.2.0").await;
    until("the budget to be named", || async {
        scene.pass().await;
        scene.play().await;
        let waiting = scene.status().await.waiting_on;
        if waiting.contains("PodDisruptionBudget web") { Ok(()) } else { Err(waiting) }
    })
    .await;
    // A plan made on an older look: the Eviction API answers 429.
    let records: Api<MeshUpgrade> = Api::all(scene.client.clone());
    let record = records.get(&scene.record_name()).await.unwrap();
    let mesh = scene.get_mesh().await;
    let gathered =
        upgrade::gather::gather(&scene.ctx, &mesh, &record, None, Remembered::default()).await.unwrap();
    let evict = |uid: &str| upgrades::Action::Evict {
        namespace: a.clone(),
        workload: upgrades::facts::WorkloadId {
            name: "web".to_owned(),
            kind: upgrades::facts::Kind::Deployment,
        },
        pod: pods[0].name_any(),
        uid: uid.to_owned(),
        cost: upgrades::plan::Cost::Replica,
    };
    let execute = async |action| {
        let all = upgrade::execute::execute(&scene.ctx, &mesh, &record, &[action], &gathered).await;
        all.into_iter().next().unwrap().1
    };
    let refused = execute(evict(&pods[0].uid().unwrap())).await;
    assert!(matches!(&refused, Done::Busy(why) if why.contains("disruption budget")), "{refused:?}");
    assert_eq!(scene.ready(&a, "web").await, BTreeMap::from([("0.1.0".to_owned(), 2)]));
    scene.budget(&a, "web", 1).await;
    // The pod that was seen is gone and another has its name: nothing happens to that one, and no budget is charged.
    assert_eq!(execute(evict("another")).await, Done::Changed);
    assert_eq!(scene.ready(&a, "web").await, BTreeMap::from([("0.1.0".to_owned(), 2)]));
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    scene.remove().await;
}

/// Polls a future so often and then drops it, as a kill would: whatever it was about to do is not done.
async fn killed_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    std::future::poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending if left == 0 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

#[tokio::test]
async fn an_operator_that_is_killed_in_the_middle_changes_only_the_time() {
    let scene = Scene::new("u-crash", &["a", "b"]).await;
    let (a, b) = (scene.namespaces[0].clone(), scene.namespaces[1].clone());
    scene.deployment(&a, "web", 2).await;
    scene.budget(&a, "web", 1).await;
    scene.deployment(&b, "lone", 1).await;
    scene.want("0.2.0").await;
    let (mut polls, mut killed) = (0, 0);
    // What a pass takes depends on what else is in the cluster and how fast it answers: where no place below the limit lets
    // one end, the limit is too low.
    let (mut limit, mut in_a_row) = (61, 0);
    loop {
        polls = (polls + 5) % limit;
        let mesh = scene.get_mesh().await;
        let sidecars = AllInSync(scene.client.clone());
        match killed_after(polls, upgrade::pass(&scene.ctx, &sidecars, &scene.watches, &mesh)).await {
            None => (killed, in_a_row) = (killed + 1, in_a_row + 1),
            Some(Err(error)) => panic!("{}", runtime::logging::chain(&error)),
            Some(Ok(_)) => in_a_row = 0,
        }
        if in_a_row == limit {
            (limit, in_a_row) = (2 * limit, 0);
        }
        for (namespace, app) in [(&a, "web"), (&b, "lone")] {
            let ready = scene.ready(namespace, app).await;
            assert!(ready.values().sum::<usize>() >= 1, "{app}: {ready:?}");
        }
        scene.play().await;
        if scene.status().await.phase == Some(UpgradePhase::Complete) {
            break;
        }
        assert!(killed < 2_000, "{:#?}", scene.status().await);
    }
    assert!(killed > 0);
    assert_eq!(scene.ready(&a, "web").await, BTreeMap::from([("0.2.0".to_owned(), 2)]));
    assert_eq!(scene.effective().await, "0.2.0");
    scene.remove().await;
}

#[tokio::test]
async fn an_abort_moves_everything_back_and_binds_until_the_version_is_edited() {
    let scene = Scene::new("u-abort", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 3).await;
    scene.want("0.2.0").await;
    until("the first pod to have moved", || async {
        scene.pass().await;
        scene.play().await;
        let ready = scene.ready(&a, "web").await;
        if ready.contains_key("0.2.0") {
            Ok(())
        } else {
            Err(format!("{ready:?} {:#?}", scene.status().await))
        }
    })
    .await;
    let records: Api<MeshUpgrade> = Api::all(scene.client.clone());
    let abort: Patch<Value> = Patch::Merge(json!({"spec": {"abort": true}}));
    records.patch(&scene.record_name(), &PatchParams::default(), &abort).await.unwrap();
    scene.run(UpgradePhase::Aborted, async |_| {}).await;
    assert_eq!(scene.ready(&a, "web").await, BTreeMap::from([("0.1.0".to_owned(), 3)]));
    assert_eq!(scene.revision(&a).await.as_deref(), Some("0.1.0"));
    scene.pass().await;
    assert_eq!(scene.status().await.phase, Some(UpgradePhase::Aborted), "it does not begin again by itself");
    // Back and forth: now it is wanted again.
    scene.want("0.1.0").await;
    scene.pass().await;
    let first = scene.records().await;
    scene.want("0.2.0").await;
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    // The second try has a record of its own, and what the first came to is there as it was.
    let both = scene.records().await;
    assert_eq!((first.len(), both.len()), (1, 2));
    assert_eq!((both[0].uid(), &both[0].status), (first[0].uid(), &first[0].status));
    assert_eq!(both[1].name_any(), format!("{}-2", scene.record_name()));
    scene.remove().await;
}

#[tokio::test]
async fn a_release_that_cannot_be_begins_nothing() {
    let scene = Scene::new("u-unknown", &["a"]).await;
    scene.want("9.9.9").await;
    scene.pass().await;
    let records: Api<MeshUpgrade> = Api::all(client(None).await);
    let records = records.list(&ListParams::default()).await.unwrap();
    assert!(records.iter().all(|record| record.spec.mesh != scene.mesh));
    assert_eq!(scene.revision(&scene.namespaces[0]).await.as_deref(), Some("0.1.0"));
    scene.remove().await;
}

/// An operator that may read everything and write records, and nothing else.
async fn may_only_write_records(client: &Client) -> std::sync::Arc<Context> {
    const USER: &str = "upgrade-without-rights";
    let rules = json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": ["meshwright.io"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["*"]},
    ]);
    let role: ClusterRole = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": USER}, "rules": rules,
    }))
    .unwrap();
    let binding: ClusterRoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": USER},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": USER}],
    }))
    .unwrap();
    let apply = PatchParams::apply("test").force();
    let (roles, bindings) =
        (Api::<ClusterRole>::all(client.clone()), Api::<ClusterRoleBinding>::all(client.clone()));
    roles.patch(USER, &apply, &Patch::Apply(&role)).await.unwrap();
    bindings.patch(USER, &apply, &Patch::Apply(&binding)).await.unwrap();
    let user = crate::cluster::client(Some(USER)).await;
    let records: Api<MeshUpgrade> = Api::all(user.clone());
    until("its rights to count", || async {
        records.list(&ListParams::default()).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    context(user, None)
}

#[tokio::test]
async fn what_the_cluster_refuses_stalls_the_upgrade_and_is_said() {
    let mut scene = Scene::new("u-refused", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "lone", 1).await;
    let right = scene.ctx.clone();
    scene.ctx = may_only_write_records(&scene.client).await;
    scene.want("0.2.0").await;
    let stalled = until("the record to say that it is refused", || async {
        scene.pass().await;
        scene.play().await;
        let status = scene.status().await;
        let refused = |c: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition| {
            c.type_ == "Stalled" && c.status == "True" && c.reason == "Refused"
        };
        match status.conditions.iter().find(refused) {
            Some(condition) => Ok(condition.message.clone()),
            None => Err(format!("{status:#?}")),
        }
    })
    .await;
    assert!(stalled.contains(&format!("label namespace {a}")) && stalled.contains("forbidden"), "{stalled}");
    let step = scene.status().await.steps.into_iter().find(|step| step.id == format!("label/{a}")).unwrap();
    assert!(step.reason.contains("forbidden") && step.finished_at.is_none(), "{step:#?}");
    let events: Api<Event> = Api::namespaced(scene.client.clone(), "default");
    let told = events.list(&ListParams::default()).await.unwrap().into_iter().any(|event| {
        event.reason.as_deref() == Some("Refused")
            && event.regarding.and_then(|about| about.name) == Some(scene.record_name())
    });
    assert!(told, "a person would want to have been told");
    // A roll-out too is refused and not an error, and what comes after it is tried.
    let records: Api<MeshUpgrade> = Api::all(scene.client.clone());
    let (mesh, record) = (scene.get_mesh().await, records.get(&scene.record_name()).await.unwrap());
    let gathered =
        upgrade::gather::gather(&scene.ctx, &mesh, &record, None, Remembered::default()).await.unwrap();
    let (deployment, mark) = ("lone".to_owned(), "0.2.0".to_owned());
    let surge = upgrades::Action::Surge { namespace: a.clone(), deployment, expect: None, mark };
    let done =
        upgrade::execute::execute(&scene.ctx, &mesh, &record, &[surge.clone(), surge], &gathered).await;
    let refused = |done: &Done| matches!(done, Done::Refused(why) if why.contains("forbidden"));
    assert!(done.len() == 2 && done.iter().all(|(_, done)| refused(done)), "{done:?}");
    scene.ctx = right;
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    scene.remove().await;
}

#[tokio::test]
async fn of_two_operators_that_think_they_lead_one_changes_nothing() {
    let scene = Scene::new("u-two", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 2).await;
    scene.want("0.2.0").await;
    until("the upgrade to move", || async {
        scene.pass().await;
        scene.play().await;
        let phase = scene.status().await.phase;
        if phase == Some(UpgradePhase::Moving) { Ok(()) } else { Err(format!("{phase:?}")) }
    })
    .await;
    let records: Api<MeshUpgrade> = Api::all(scene.client.clone());
    let old = records.get(&scene.record_name()).await.unwrap();
    let touched: Patch<Value> = Patch::Merge(json!({"metadata": {"annotations": {"another": "operator"}}}));
    records.patch(&scene.record_name(), &PatchParams::default(), &touched).await.unwrap();
    let mut after = old.status.clone().unwrap();
    after.waiting_on = "of an operator that was asleep".to_owned();
    let written = upgrade::report::write(&scene.ctx, &old, after).await.unwrap();
    assert!(matches!(written, upgrade::report::Written::Changed), "{written:?}");
    assert_ne!(scene.status().await.waiting_on, "of an operator that was asleep");
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    scene.remove().await;
}

#[tokio::test]
async fn a_record_of_a_newer_release_keeps_what_this_one_does_not_know() {
    let scene = Scene::new("u-newer", &["a"]).await;
    let a = scene.namespaces[0].clone();
    scene.deployment(&a, "web", 2).await;
    scene.want("0.2.0").await;
    let records: Api<MeshUpgrade> = Api::all(scene.client.clone());
    until("the record to have a status", || async {
        scene.pass().await;
        let status = records.get_opt(&scene.record_name()).await.unwrap().and_then(|record| record.status);
        status.map(drop).ok_or("none yet".to_owned())
    })
    .await;
    // As an operator of another release finished it: the step of a workload that this release would word otherwise.
    let mut record = records.get(&scene.record_name()).await.unwrap();
    let done: crds::mesh_upgrade::StepStatus = serde_json::from_value(json!({
        "id": "preflight/quota", "leg": 1, "step": "look at quotas", "state": "Done",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
    }))
    .unwrap();
    record.status.as_mut().unwrap().steps.insert(0, done.clone());
    let after = record.status.clone().unwrap();
    record.status = None;
    let written = upgrade::report::write(&scene.ctx, &record, after).await.unwrap();
    assert!(matches!(written, upgrade::report::Written::Yes(_)), "{written:?}");
    scene.run(UpgradePhase::Complete, async |_| {}).await;
    assert!(scene.status().await.steps.contains(&done));
    scene.remove().await;
}
