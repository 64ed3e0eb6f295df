//! Kubernetes objects as the planner's facts: pure.

use std::collections::{BTreeMap, BTreeSet};

use crds::fleet::ProxyReport;
use crds::mesh_config::UpgradeStrategy;
use crds::{MeshConfig, MeshUpgrade, labels};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::core::{PartialObjectMeta, Selector, SelectorExt};
use upgrades::facts::{
    Budget, Kind, Proxy, Readiness, Rollout, Seen, Strategy, Streams, Workload, WorkloadId,
};

use super::slots;
use crate::fleet::FleetView;

/// A workload without its pods, and how to refer to it.
pub struct Owner {
    /// Its facts.
    pub workload: Workload,
    /// For Events and preconditions.
    pub reference: ObjectReference,
    /// For preconditions.
    pub resource_version: Option<String>,
}

fn owner(meta: &ObjectMeta, kind: &str, workload: Workload) -> Owner {
    let api_version = if kind == "Pod" { "v1" } else { "apps/v1" };
    let reference = ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(kind.to_owned()),
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
        uid: meta.uid.clone(),
        ..ObjectReference::default()
    };
    Owner { workload, reference, resource_version: meta.resource_version.clone() }
}

/// A number from the API; negative ones, which it never sends, count as none.
fn number(value: Option<i32>) -> u32 {
    value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0)
}

fn rollout(settled: bool) -> Rollout {
    if settled { Rollout::Settled } else { Rollout::Progressing }
}

/// A Deployment.
#[must_use]
pub fn deployment(object: &Deployment) -> Owner {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let replicas = spec.replicas.map_or(1, |replicas| number(Some(replicas)));
    let updated = number(status.updated_replicas);
    let seen = status.observed_generation >= object.metadata.generation;
    let template = spec.template.metadata.unwrap_or_default();
    let rolling =
        spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let strategy = match spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) {
        _ if spec.paused == Some(true) => Strategy::Paused,
        Some("Recreate") => Strategy::Recreate,
        _ => rolling_update(rolling.max_surge.as_ref(), rolling.max_unavailable.as_ref(), replicas),
    };
    let workload = Workload {
        replicas,
        rollout: rollout(seen && updated == replicas && number(status.replicas) == updated),
        strategy,
        moved_to: template.annotations.and_then(|mut annotations| annotations.remove(labels::MOVED_TO)),
        pods: BTreeMap::new(),
    };
    owner(&object.metadata, "Deployment", workload)
}

/// Both numbers as Kubernetes resolves them: surge rounds up, unavailability down, and not both may be 0.
fn rolling_update(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, replicas: u32) -> Strategy {
    let resolve = |value: Option<&IntOrString>, up: bool| match value {
        Some(IntOrString::Int(number)) => u32::try_from(*number).unwrap_or(0),
        other => {
            let text = match other {
                Some(IntOrString::String(text)) => text.as_str(),
                _ => "25%",
            };
            let percent: u64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent.saturating_mul(u64::from(replicas));
            u32::try_from(if up { product.div_ceil(100) } else { product / 100 }).unwrap_or(u32::MAX)
        }
    };
    let (max_surge, max_unavailable) = (resolve(surge, true), resolve(unavailable, false));
    let max_unavailable = if max_surge == 0 { max_unavailable.max(1) } else { max_unavailable };
    Strategy::RollingUpdate { max_surge, max_unavailable }
}

/// A StatefulSet. One that is rolled by hand or by partition is never "updated", and that is its owner's wish.
#[must_use]
pub fn stateful_set(object: &StatefulSet) -> Owner {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let update = spec.update_strategy.unwrap_or_default();
    let by_hand = update.type_.as_deref() == Some("OnDelete")
        || update.rolling_update.and_then(|rolling| rolling.partition).unwrap_or(0) > 0;
    let seen = status.observed_generation >= object.metadata.generation;
    let settled = seen && (by_hand || status.current_revision == status.update_revision);
    let replicas = spec.replicas.map_or(1, |replicas| number(Some(replicas)));
    owner(&object.metadata, "StatefulSet", plain(replicas, settled))
}

/// A DaemonSet.
#[must_use]
pub fn daemon_set(object: &DaemonSet) -> Owner {
    let spec = object.spec.clone().unwrap_or_default();
    let status = object.status.clone().unwrap_or_default();
    let by_hand = spec.update_strategy.and_then(|update| update.type_).as_deref() == Some("OnDelete");
    let wanted = status.desired_number_scheduled;
    let seen = status.observed_generation >= object.metadata.generation;
    let settled = seen && (by_hand || status.updated_number_scheduled.unwrap_or(0) == wanted);
    owner(&object.metadata, "DaemonSet", plain(number(Some(wanted)), settled))
}

/// A ReplicaSet that nothing owns.
#[must_use]
pub fn replica_set(object: &ReplicaSet) -> Owner {
    let replicas =
        object.spec.as_ref().and_then(|spec| spec.replicas).map_or(1, |replicas| number(Some(replicas)));
    let seen =
        object.status.as_ref().and_then(|status| status.observed_generation) >= object.metadata.generation;
    owner(&object.metadata, "ReplicaSet", plain(replicas, seen))
}

/// A pod, Job or unknown controller: only its pods are looked at.
#[must_use]
pub fn of_pod(pod: &Pod, controller: Option<&OwnerReference>) -> Owner {
    let mut owner = owner(&pod.metadata, "Pod", plain(0, true));
    if let Some(controller) = controller {
        owner.reference.api_version = Some(controller.api_version.clone());
        owner.reference.kind = Some(controller.kind.clone());
        owner.reference.name = Some(controller.name.clone());
        owner.reference.uid = Some(controller.uid.clone());
    }
    owner
}

fn plain(replicas: u32, settled: bool) -> Workload {
    let pods = BTreeMap::new();
    Workload { replicas, rollout: rollout(settled), strategy: Strategy::None, moved_to: None, pods }
}

/// The controller of an object.
#[must_use]
pub fn controller(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The workload that a pod is of. `replica_sets` are the controllers of the namespace's ReplicaSets by name.
#[must_use]
pub fn workload_of(pod: &Pod, replica_sets: &BTreeMap<String, Option<OwnerReference>>) -> WorkloadId {
    let Some(owner) = controller(&pod.metadata) else {
        return WorkloadId { name: pod.name_any(), kind: Kind::Pod };
    };
    let owner = match replica_sets.get(&owner.name) {
        Some(Some(above)) if owner.kind == "ReplicaSet" => above,
        _ => owner,
    };
    // Only a pod that nothing owns is a workload of its own.
    let kind = match Kind::named(&owner.kind) {
        Kind::Pod => Kind::Other(owner.kind.clone()),
        kind => kind,
    };
    WorkloadId { name: owner.name.clone(), kind }
}

/// Whether a namespace's sidecars are swapped in place: its annotation, where that can be read, or else the mesh's.
#[must_use]
pub fn hot_swap(mesh: &MeshConfig, namespace: &Namespace) -> bool {
    let annotation = namespace.annotations().get(labels::UPGRADE_STRATEGY);
    let own = annotation.and_then(|text| UpgradeStrategy::parse(text));
    own.unwrap_or(mesh.spec.upgrade.strategy) == UpgradeStrategy::HotSwap
}

/// A pod; none when it has ended.
#[must_use]
pub fn pod(object: &Pod, fleet: Option<&FleetView>) -> Option<upgrades::facts::Pod> {
    let status = object.status.clone().unwrap_or_default();
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let spec = object.spec.as_ref()?;
    // A native sidecar is an init container that never ends.
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let sidecar = containers.any(|container| container.name == labels::PROXY_CONTAINER);
    let revision = object.labels().get(labels::REVISION).filter(|_| sidecar).cloned();
    let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let slots = slots::of(object, report(object, fleet).map(|report| report.version.as_str()));
    let proxy = proxy(object, fleet);
    let swapping = slots.as_ref().filter(|slots| slots.serving.is_some() && slots.serving != revision);
    Some(upgrades::facts::Pod {
        uid: object.uid().unwrap_or_default(),
        proxy: swapping.map_or(proxy, |slots| Proxy::Swapping(slots::trouble(object, slots))),
        revision,
        ready,
        terminating: object.metadata.deletion_timestamp.is_some(),
        slots,
    })
}

fn report<'a>(pod: &Pod, fleet: Option<&'a FleetView>) -> Option<&'a ProxyReport> {
    let key = (pod.namespace().unwrap_or_default(), pod.name_any());
    fleet?.proxies.get(&key).filter(|report| Some(&report.uid) == pod.metadata.uid.as_ref())
}

fn proxy(pod: &Pod, fleet: Option<&FleetView>) -> Proxy {
    let Some(fleet) = fleet else { return Proxy::Unknown };
    match report(pod, Some(fleet)) {
        Some(report) => match report.rejected.first() {
            Some(rejection) => Proxy::Rejecting(rejection.error.clone()),
            None if report.in_sync => Proxy::InSync,
            None => Proxy::Behind,
        },
        None if fleet.complete() => Proxy::NotConnected,
        None => Proxy::Unknown,
    }
}

/// Who is connected to the controllers of which release, and which of these could not be asked.
#[must_use]
pub fn streams(fleet: &FleetView) -> BTreeMap<String, Streams> {
    let mut all: BTreeMap<String, Streams> = BTreeMap::new();
    for (release, pods) in &fleet.streams {
        all.entry(release.clone()).or_default().pods.extend(pods.iter().cloned());
    }
    for (pod, why) in &fleet.missing {
        if let Some(release) = fleet.releases.get(pod) {
            all.entry(release.clone()).or_default().silent.insert(pod.clone(), why.clone());
        }
    }
    all
}

/// Whether the control-plane reconciler has seen this leg of this record.
#[must_use]
pub fn seen(mesh: &MeshConfig, record: &MeshUpgrade, leg: i64) -> Seen {
    let seen = mesh.status.as_ref().and_then(|status| status.upgrade_seen.as_ref());
    match seen {
        Some(seen) if Some(&seen.uid) == record.metadata.uid.as_ref() && seen.leg == leg => Seen::Yes,
        _ => Seen::NotYet,
    }
}

/// A PodDisruptionBudget and the pods that it selects. With `v1beta1` an empty selector selects nothing.
#[must_use]
pub fn budget(object: &DynamicObject, v1beta1: bool, pods: &[&Pod]) -> Budget {
    let number = |value: &serde_json::Value| value.as_i64().unwrap_or(0);
    let status = &object.data["status"];
    let seen = number(&status["observedGeneration"]) >= object.metadata.generation.unwrap_or(0);
    let allowed = u32::try_from(number(&status["disruptionsAllowed"])).unwrap_or(0);
    let selector: Option<LabelSelector> =
        serde_json::from_value(object.data["spec"]["selector"].clone()).unwrap_or_default();
    let selector = selector.and_then(|selector| Selector::try_from(selector).ok());
    let selected = |pod: &&&Pod| {
        selector.as_ref().is_some_and(|s| !(v1beta1 && s.selects_all()) && s.matches(pod.labels()))
    };
    let pods = pods.iter().filter(selected).map(|pod| pod.name_any()).collect::<BTreeSet<_>>();
    Budget { allowed: if seen { allowed } else { 0 }, pods }
}

/// The revisions of a control plane, from its Deployments; `webhooks` are the names of the webhook configurations
/// that carry a CA.
#[must_use]
pub fn revisions(
    mesh: &str,
    deployments: &[&Deployment],
    webhooks: &BTreeSet<String>,
) -> BTreeMap<String, Readiness> {
    let by_name: BTreeMap<String, &Deployment> =
        deployments.iter().map(|deployment| (deployment.name_any(), *deployment)).collect();
    let versions: BTreeSet<&String> = by_name
        .iter()
        .filter_map(|(name, deployment)| {
            let version = deployment.labels().get(labels::VERSION)?;
            let names = [labels::controller_name(version), labels::injector_name(version)];
            names.contains(name).then_some(version)
        })
        .collect();
    let readiness = |version: &str| {
        let parts =
            [("controller", labels::controller_name(version)), ("injector", labels::injector_name(version))];
        let missing = parts.iter().find_map(|(part, name)| unready(part, by_name.get(name).copied()));
        let webhook = format!("meshwright-injector-{mesh}-{}", labels::dashed(version));
        match missing {
            Some(why) => Readiness::NotReady(why),
            None if webhooks.contains(&webhook) => Readiness::Ready,
            None => Readiness::NotReady(format!("webhook {webhook} is not in place")),
        }
    };
    versions.into_iter().map(|version| (version.clone(), readiness(version))).collect()
}

fn unready(part: &str, deployment: Option<&Deployment>) -> Option<String> {
    let Some(deployment) = deployment else { return Some(format!("the {part} does not exist")) };
    let status = deployment.status.clone().unwrap_or_default();
    let wanted = number(deployment.spec.as_ref().and_then(|spec| spec.replicas)).max(1);
    let seen = status.observed_generation >= deployment.metadata.generation;
    let ready = number(status.updated_replicas).min(number(status.ready_replicas));
    (!seen || ready < wanted).then(|| format!("{part}: {ready} of {wanted} replicas are ready"))
}

/// The controllers of ReplicaSets by namespace and name.
#[must_use]
pub fn replica_sets(
    list: &[PartialObjectMeta<ReplicaSet>],
) -> BTreeMap<String, BTreeMap<String, Option<OwnerReference>>> {
    let mut by_namespace: BTreeMap<String, BTreeMap<String, Option<OwnerReference>>> = BTreeMap::new();
    for object in list {
        let names = by_namespace.entry(object.namespace().unwrap_or_default()).or_default();
        names.insert(object.name_any(), controller(&object.metadata).cloned());
    }
    by_namespace
}
