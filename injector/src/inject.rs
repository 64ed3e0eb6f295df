//! The decision about one pod.
//!
//! The patch has two halves. What changes in existing containers and metadata is the difference between the pod
//! as read and as edited. What is new (containers, volumes) is added as whole array elements afterwards, so that
//! no element we do not know completely is ever rewritten: a pod field newer than our types survives.

use std::collections::BTreeMap;

use crds::labels;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, diff};
use k8s_openapi::api::core::v1::{Lifecycle, Pod, PodSpec};
use serde::Serialize;
use serde_json::Value;

use crate::decision::{Decision, DenyReason, Problem};
use crate::probes::{self, AppProbes, Starts};
use crate::settings::{NamespaceMeta, Settings};
use crate::sidecar::Slot;
use crate::{eligibility, overrides, sidecar};

/// Decides about a pod that is about to be created.
///
/// Deterministic: the same pod, namespace and settings give the same bytes, and a pod that has been through here
/// comes out unchanged.
#[must_use]
pub fn inject(pod: &Pod, namespace: &NamespaceMeta, settings: &Settings) -> Decision {
    decide(pod, namespace, settings).unwrap_or_else(Decision::Deny)
}

fn decide(pod: &Pod, namespace: &NamespaceMeta, settings: &Settings) -> Result<Decision, Problem> {
    if let Some(reason) = eligibility::skip(pod, namespace, settings)? {
        let mut edited = pod.clone();
        if reason.is_annotated() {
            set(&mut edited.metadata.annotations, labels::INJECTION, &format!("skipped: {reason}"));
        }
        return Ok(Decision::Skip(reason, difference(pod, &edited)?));
    }
    let Some(spec) = &pod.spec else {
        return Err(Problem::new(DenyReason::Unreadable, "the pod has no spec"));
    };
    eligibility::check(spec, settings)?;
    let settings = Settings { strategy: namespace.strategy(settings), ..overrides::apply(pod, settings)? };
    let mut edited = pod.clone();
    let probes = edit(&mut edited, &settings);
    let mut patch = difference(pod, &edited)?;
    patch.0.extend(additions(pod, spec, &settings, &probes)?);
    Ok(Decision::Inject(patch))
}

/// Changes what is there already; returns what the probes were.
fn edit(pod: &mut Pod, settings: &Settings) -> AppProbes {
    set(&mut pod.metadata.labels, labels::MESH, &settings.mesh);
    set(&mut pod.metadata.labels, labels::REVISION, &settings.revision);
    set(&mut pod.metadata.annotations, labels::INJECTION, sidecar::INJECTED);
    if pod.spec.as_ref().is_some_and(|spec| sidecar::has_slots(spec, settings)) {
        set(&mut pod.metadata.annotations, labels::LIVE_SLOT, Slot::A.name());
        set(&mut pod.metadata.annotations, labels::POD_FORMAT, &sidecar::FORMAT.to_string());
    }
    let mut probes = AppProbes::new();
    let Some(spec) = &mut pod.spec else { return probes };
    let key = settings.hook_key();
    for container in &mut spec.containers {
        probes::rewrite(container, Starts::After, &key, &mut probes);
        let lifecycle = container.lifecycle.get_or_insert_with(Lifecycle::default);
        lifecycle.pre_stop.get_or_insert_with(|| sidecar::hold(settings));
    }
    // Native sidecars of the app's own; init containers that end have no probes.
    let starts = if settings.native_sidecars { Starts::After } else { Starts::Before };
    for container in spec.init_containers.iter_mut().flatten() {
        probes::rewrite(container, starts, &key, &mut probes);
    }
    probes
}

/// Volumes at the end; containers where their order says when they start:
///
/// - The sidecar is a container: first, since its postStart hook holds the others back. The redirection is the last
///   init container, so those of the app still find the plain network.
/// - The sidecar is native: redirection and sidecar are the first init containers, so those of the app find the mesh.
fn additions(
    pod: &Pod,
    spec: &PodSpec,
    settings: &Settings,
    probes: &AppProbes,
) -> Result<Vec<PatchOperation>, Problem> {
    let proxies = sidecar::proxies(pod, spec, settings, &probes::json(probes)?);
    let init = sidecar::init(spec, settings);
    let mut operations = Vec::new();
    match (settings.native_sidecars, &spec.init_containers) {
        (true, Some(_)) => {
            for container in proxies.iter().rev().chain([&init]) {
                operations.push(add(&["spec", "initContainers", "0"], container)?);
            }
        }
        (true, None) => {
            let all: Vec<_> = std::iter::once(init).chain(proxies).collect();
            operations.push(add(&["spec", "initContainers"], &all)?);
        }
        (false, inits) => {
            for container in proxies.iter().rev() {
                operations.push(add(&["spec", "containers", "0"], container)?);
            }
            operations.push(match inits {
                Some(_) => add(&["spec", "initContainers", "-"], &init)?,
                None => add(&["spec", "initContainers"], &[init])?,
            });
        }
    }
    let volumes = sidecar::volumes(spec, settings);
    match &spec.volumes {
        Some(_) => {
            for volume in &volumes {
                operations.push(add(&["spec", "volumes", "-"], volume)?);
            }
        }
        None => operations.push(add(&["spec", "volumes"], &volumes)?),
    }
    Ok(operations)
}

fn add<T: Serialize + ?Sized>(path: &[&str], value: &T) -> Result<PatchOperation, Problem> {
    Ok(PatchOperation::Add(AddOperation {
        path: PointerBuf::from_tokens(path.iter().copied()),
        value: json(value)?,
    }))
}

fn difference(before: &Pod, after: &Pod) -> Result<Patch, Problem> {
    Ok(diff(&json(before)?, &json(after)?))
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<Value, Problem> {
    serde_json::to_value(value).map_err(|error| Problem::new(DenyReason::Unreadable, error.to_string()))
}

fn set(map: &mut Option<BTreeMap<String, String>>, key: &str, value: &str) {
    map.get_or_insert_with(BTreeMap::new).insert(key.to_owned(), value.to_owned());
}
