//! Who gets no sidecar, and what may not be in a pod that gets one.

use std::ops::RangeInclusive;

use crds::labels;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use crate::decision::{DenyReason, Problem, Reason};
use crate::overrides;
use crate::settings::{NamespaceMeta, Settings};
use crate::sidecar;

/// Ports that the sidecar may use inside the pod.
const RESERVED: RangeInclusive<i32> =
    *labels::SIDECAR_PORTS.start() as i32..=*labels::SIDECAR_PORTS.end() as i32;

/// Why this pod gets no sidecar; `None` when it should get one. The order is from what concerns the namespace to
/// what concerns the pod, so that the reason shown is the one to look at first.
pub fn skip(pod: &Pod, namespace: &NamespaceMeta, settings: &Settings) -> Result<Option<Reason>, Problem> {
    if namespace.name == settings.namespace {
        return Ok(Some(Reason::ControlPlaneNamespace));
    }
    // As the operator has it: Kubernetes' own namespaces are never part of a mesh, whatever they are labelled.
    if namespace.labels.get(labels::MESH) != Some(&settings.mesh) || namespace.name.starts_with("kube-") {
        return Ok(Some(Reason::NamespaceNotWatched));
    }
    if namespace.terminating || pod.metadata.deletion_timestamp.is_some() {
        return Ok(Some(Reason::Terminating));
    }
    if annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Ok(Some(Reason::MirrorPod));
    }
    let Some(spec) = &pod.spec else { return Ok(None) };
    if spec.host_network == Some(true) {
        return Ok(Some(Reason::HostNetwork));
    }
    if wants_windows(spec) {
        return Ok(Some(Reason::Windows));
    }
    if overrides::opted_out(pod)? {
        return Ok(Some(Reason::OptedOut));
    }
    already_injected(pod, spec, settings)
}

/// A pod that was read from the cluster and applied again, or that the API server asks about a second time.
fn already_injected(pod: &Pod, spec: &PodSpec, settings: &Settings) -> Result<Option<Reason>, Problem> {
    // Not necessarily the first any more: another webhook may have put its own container before ours.
    let inits = spec.init_containers.iter().flatten();
    let mut all = spec.containers.iter().chain(inits);
    let Some(proxy) = all.find(|container| container.name == labels::PROXY_CONTAINER) else {
        return Ok(None);
    };
    let has_init =
        spec.init_containers.iter().flatten().any(|container| container.name == labels::INIT_CONTAINER);
    if annotation(pod, labels::INJECTION) != Some(sidecar::INJECTED) || !has_init {
        return Ok(None);
    }
    let mesh = proxy.env.iter().flatten().find(|variable| variable.name == labels::MESH_ENV);
    match mesh.and_then(|variable| variable.value.as_deref()) {
        Some(mesh) if mesh == settings.mesh => Ok(Some(Reason::AlreadyInjected)),
        Some(other) => Err(Problem::new(
            DenyReason::OtherMesh,
            format!(
                "the pod carries the sidecar of mesh {other:?}, but its namespace belongs to {:?}; apply the pod as \
                 it was before injection",
                settings.mesh
            ),
        )),
        None => Ok(None),
    }
}

fn wants_windows(spec: &PodSpec) -> bool {
    let by_selector = spec.node_selector.as_ref().and_then(|selector| selector.get("kubernetes.io/os"));
    spec.os.as_ref().is_some_and(|os| os.name == "windows") || by_selector.is_some_and(|os| os == "windows")
}

/// Refuses what would break the sidecar or pass it by.
pub fn check(spec: &PodSpec, settings: &Settings) -> Result<(), Problem> {
    let init = spec.init_containers.iter().flatten();
    for container in init.clone().chain(&spec.containers) {
        check_name(&container.name)?;
        check_ports(container)?;
    }
    // Init containers that end before the redirection begins may be anybody.
    let lasting = init.filter(|container| settings.native_sidecars || container.restart_policy.is_some());
    lasting.chain(&spec.containers).try_for_each(|container| check_group(container, spec))?;
    for volume in spec.volumes.iter().flatten() {
        if sidecar::VOLUMES.contains(&volume.name.as_str()) {
            return Err(Problem::new(
                DenyReason::NameCollision,
                format!("volume {} has a name that the sidecar needs; rename it", volume.name),
            ));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Problem> {
    if [labels::PROXY_CONTAINER, labels::PROXY_CONTAINER_B, labels::INIT_CONTAINER].contains(&name) {
        let message = format!(
            "container {name} has a name that the sidecar needs and is not our sidecar; rename it, or, if it was \
             copied from a running pod, remove everything that injection added"
        );
        return Err(Problem::new(DenyReason::NameCollision, message));
    }
    Ok(())
}

fn check_ports(container: &Container) -> Result<(), Problem> {
    let taken = container.ports.iter().flatten().find(|port| RESERVED.contains(&port.container_port));
    match taken {
        None => Ok(()),
        Some(port) => Err(Problem::new(
            DenyReason::PortCollision,
            format!(
                "container {} listens on port {}; the sidecar needs {} to {}. Move the container to another port",
                container.name,
                port.container_port,
                RESERVED.start(),
                RESERVED.end()
            ),
        )),
    }
}

/// Connections of the sidecar's group are not redirected (that is how the sidecar reaches the network), so an app
/// with the same group would go around every policy. A group that it has besides its own is enough: a program in a
/// volume can take it over (setgid).
fn check_group(container: &Container, spec: &PodSpec) -> Result<(), Problem> {
    let own = container.security_context.as_ref();
    let pod = spec.security_context.as_ref();
    let group = own.and_then(|own| own.run_as_group).or(pod.and_then(|pod| pod.run_as_group));
    let others =
        pod.into_iter().flat_map(|pod| pod.supplemental_groups.iter().flatten().chain(&pod.fs_group));
    if group.iter().chain(others).any(|group| *group == labels::PROXY_GID) {
        return Err(Problem::new(
            DenyReason::GroupCollision,
            format!(
                "container {} runs with group {}, which is the sidecar's: its traffic would not be redirected. \
                 Choose another id (runAsGroup, fsGroup, supplementalGroups)",
                container.name,
                labels::PROXY_GID
            ),
        ));
    }
    Ok(())
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
