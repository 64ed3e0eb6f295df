//! Reads the facts of one pass. A read that fails fails the pass: nothing is planned on half the facts. Workloads are
//! read before pods, so a roll-out that looks settled is settled for the pods too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use crds::{MeshConfig, MeshUpgrade, labels};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use upgrades::facts::{Kind, Observed, Rollout, Stray, WaveId, WorkloadId};

use super::facts::{self, Owner};
use crate::context::Context;
use crate::fleet::FleetView;

/// Objects per page of a list.
const PAGE: u32 = 500;

/// The facts, and what the executor needs beside them.
pub struct Gathered {
    /// For the planner.
    pub observed: Observed,
    /// Workloads by namespace.
    pub references: BTreeMap<(String, WorkloadId), ObjectReference>,
    /// Resource versions of Deployments by namespace and name.
    pub deployments: BTreeMap<(String, String), String>,
    /// Resource versions of namespaces.
    pub namespaces: BTreeMap<String, String>,
}

/// Everything that was read.
struct Lists {
    namespaces: Vec<Namespace>,
    deployments: Vec<Deployment>,
    stateful_sets: Vec<StatefulSet>,
    daemon_sets: Vec<DaemonSet>,
    replica_sets: Vec<kube::core::PartialObjectMeta<ReplicaSet>>,
    lone_replica_sets: Vec<ReplicaSet>,
    budgets: Vec<DynamicObject>,
    v1beta1: bool,
    webhooks: BTreeSet<String>,
    pods: Vec<Pod>,
}

/// What the record says, as far as a plan is made from it.
#[derive(Debug, Clone, Default)]
pub struct Remembered {
    /// Seconds since 1970.
    pub now: u64,
    /// For how long each wave was watched.
    pub soaks: BTreeMap<WaveId, u64>,
    /// Number of the current leg.
    pub leg: i64,
}

/// The time, in seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

/// Reads everything about an upgrade.
///
/// # Errors
/// The first read that fails.
pub async fn gather(
    ctx: &Context,
    mesh: &MeshConfig,
    record: &MeshUpgrade,
    fleet: Option<&FleetView>,
    remembered: Remembered,
) -> Result<Gathered, kube::Error> {
    let Remembered { now, soaks, leg } = remembered;
    let steps = record.status.as_ref().map(|status| status.steps.as_slice()).unwrap_or_default();
    let mut gathered = world(ctx, mesh, fleet).await?;
    gathered.observed = Observed {
        now,
        soaks,
        control_plane: facts::seen(mesh, record, leg),
        unhealthy: upgrades::ledger::unhealthy(steps, leg),
        ..gathered.observed
    };
    Ok(gathered)
}

/// Reads what an upgrade would look at, where there is none.
///
/// # Errors
/// The first read that fails.
pub async fn world(
    ctx: &Context,
    mesh: &MeshConfig,
    fleet: Option<&FleetView>,
) -> Result<Gathered, kube::Error> {
    let name = mesh.name_any();
    let lists = read(&ctx.client, &name).await?;
    let control_plane: Vec<_> = lists
        .deployments
        .iter()
        .filter(|deployment| deployment.namespace().as_ref() == Some(&mesh.spec.namespace))
        .filter(|deployment| deployment.labels().get(labels::MESH).is_none_or(|label| *label == name))
        .collect();
    let effective =
        mesh.status.as_ref().and_then(|status| status.version.clone()).unwrap_or_default().effective;
    let mut gathered = Gathered {
        observed: Observed {
            now: now(),
            catalogue: ctx.catalogue.clone(),
            effective,
            revisions: facts::revisions(&name, &control_plane, &lists.webhooks),
            streams: fleet.map(facts::streams),
            ..Observed::default()
        },
        references: BTreeMap::new(),
        deployments: BTreeMap::new(),
        namespaces: BTreeMap::new(),
    };
    lists.sort(mesh, fleet, &mut gathered);
    Ok(gathered)
}

async fn read(client: &Client, mesh: &str) -> Result<Lists, kube::Error> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let replica_sets: Api<ReplicaSet> = Api::all(client.clone());
    let of_mesh = ListParams::default().labels(&format!("{}={mesh}", labels::MESH));
    let all = ListParams::default();
    let (namespaces, webhooks, deployments, stateful_sets, daemon_sets, replica_sets, (budgets, v1beta1)) = futures::try_join!(
        namespaces.list(&of_mesh),
        webhooks.list(&all),
        everything::<Deployment>(client),
        everything::<StatefulSet>(client),
        everything::<DaemonSet>(client),
        replica_sets.list_metadata(&all),
        budgets(client),
    )?;
    let armed = webhooks.into_iter().filter(|configuration| {
        let mut hooks = configuration.webhooks.iter().flatten().peekable();
        hooks.peek().is_some()
            && hooks.all(|hook| hook.client_config.ca_bundle.as_ref().is_some_and(|ca| !ca.0.is_empty()))
    });
    Ok(Lists {
        webhooks: armed.map(|configuration| configuration.name_any()).collect(),
        namespaces: namespaces.items,
        deployments,
        stateful_sets,
        daemon_sets,
        lone_replica_sets: lone(client, &replica_sets.items).await?,
        replica_sets: replica_sets.items,
        budgets,
        v1beta1,
        pods: everything::<Pod>(client).await?,
    })
}

/// The ReplicaSets that nothing owns, whole; of the others the names are enough, and there are many.
async fn lone(
    client: &Client,
    list: &[kube::core::PartialObjectMeta<ReplicaSet>],
) -> Result<Vec<ReplicaSet>, kube::Error> {
    let lone = list.iter().filter(|object| facts::controller(&object.metadata).is_none());
    let reads = lone.map(|object| {
        let api: Api<ReplicaSet> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
        let name = object.name_any();
        async move { api.get_opt(&name).await }
    });
    Ok(futures::future::try_join_all(reads).await?.into_iter().flatten().collect())
}

/// All objects of a kind, page by page.
async fn everything<K>(client: &Client) -> Result<Vec<K>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::all(client.clone());
    let mut params = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let list = api.list(&params).await?;
        objects.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}

/// All PodDisruptionBudgets, and whether they are of `policy/v1beta1` (servers before 1.21).
async fn budgets(client: &Client) -> Result<(Vec<DynamicObject>, bool), kube::Error> {
    let groups = client.list_api_groups().await?;
    let mut policy =
        groups.groups.iter().filter(|group| group.name == "policy").flat_map(|group| &group.versions);
    let version = if policy.any(|version| version.version == "v1") { "v1" } else { "v1beta1" };
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("policy", version, "PodDisruptionBudget"));
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    Ok((api.list(&ListParams::default()).await?.items, version == "v1beta1"))
}

impl Lists {
    /// Sorts what was read into namespaces, workloads and pods.
    fn sort(&self, mesh: &MeshConfig, fleet: Option<&FleetView>, into: &mut Gathered) {
        for object in &self.namespaces {
            let name = object.name_any();
            let namespace = upgrades::facts::Namespace {
                revision: object.labels().get(labels::REVISION).cloned(),
                terminating: object.metadata.deletion_timestamp.is_some(),
                hot_swap: facts::hot_swap(mesh, object),
                ..Default::default()
            };
            into.namespaces.insert(name.clone(), object.resource_version().unwrap_or_default());
            into.observed.namespaces.insert(name, namespace);
        }
        self.workloads(into);
        self.place_pods(&mesh.name_any(), fleet, into);
        for object in &self.budgets {
            let name = object.namespace().unwrap_or_default();
            let pods: Vec<_> =
                self.pods.iter().filter(|pod| pod.metadata.namespace.as_ref() == Some(&name)).collect();
            if let Some(namespace) = into.observed.namespaces.get_mut(&name) {
                namespace.budgets.insert(object.name_any(), facts::budget(object, self.v1beta1, &pods));
            }
        }
    }

    fn workloads(&self, into: &mut Gathered) {
        for object in &self.deployments {
            into.add(Kind::Deployment, facts::deployment(object));
        }
        for object in &self.stateful_sets {
            into.add(Kind::StatefulSet, facts::stateful_set(object));
        }
        for object in &self.daemon_sets {
            into.add(Kind::DaemonSet, facts::daemon_set(object));
        }
        for object in &self.lone_replica_sets {
            into.add(Kind::ReplicaSet, facts::replica_set(object));
        }
    }

    fn place_pods(&self, mesh: &str, fleet: Option<&FleetView>, into: &mut Gathered) {
        let replica_sets = facts::replica_sets(&self.replica_sets);
        let none = BTreeMap::new();
        for object in &self.pods {
            let Some(pod) = facts::pod(object, fleet) else { continue };
            let name = object.namespace().unwrap_or_default();
            if !into.observed.namespaces.contains_key(&name) {
                let others = object.labels().get(labels::MESH).is_some_and(|label| label != mesh);
                if let Some(revision) = pod.revision.filter(|_| !others) {
                    into.observed.strays.insert(Stray { namespace: name, pod: object.name_any(), revision });
                }
                continue;
            }
            let id = facts::workload_of(object, replica_sets.get(&name).unwrap_or(&none));
            into.place(&name, id, object, pod);
        }
    }
}

impl Gathered {
    fn add(&mut self, kind: Kind, owner: Owner) {
        let Owner { workload, reference, resource_version } = owner;
        let (Some(namespace), Some(name)) = (reference.namespace.clone(), reference.name.clone()) else {
            return;
        };
        let Some(facts) = self.observed.namespaces.get_mut(&namespace) else { return };
        if kind == Kind::Deployment {
            self.deployments.insert((namespace.clone(), name.clone()), resource_version.unwrap_or_default());
        }
        let id = WorkloadId { name, kind };
        facts.workloads.insert(id.clone(), workload);
        self.references.insert((namespace, id), reference);
    }

    /// Puts a pod to its workload. Workloads that were not read (Jobs, unknown controllers, bare pods) are as large as
    /// the pods they have; none of them is moved.
    fn place(&mut self, namespace: &str, id: WorkloadId, object: &Pod, pod: upgrades::facts::Pod) {
        let Some(facts) = self.observed.namespaces.get_mut(namespace) else { return };
        let known =
            matches!(id.kind, Kind::Deployment | Kind::StatefulSet | Kind::DaemonSet | Kind::ReplicaSet);
        let workload = facts.workloads.entry(id.clone()).or_insert_with(|| {
            let mut owner = facts::of_pod(object, facts::controller(&object.metadata));
            if known {
                // It appeared after the workloads were read: the next pass sees how large it is.
                owner.workload.rollout = Rollout::Progressing;
            }
            self.references.insert((namespace.to_owned(), id), owner.reference);
            owner.workload
        });
        if !known && !pod.terminating {
            workload.replicas = workload.replicas.saturating_add(1);
        }
        workload.pods.insert(object.name_any(), pod);
    }
}
