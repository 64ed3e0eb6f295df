//! What injection adds to a pod: the table "Sidecar" of docs/ARCHITECTURE.md as values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use crds::labels;
use crds::mesh_config::UpgradeStrategy;
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
    EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction, HTTPGetAction, KeyToPath, Lifecycle,
    LifecycleHandler, ObjectFieldSelector, Pod, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements,
    SeccompProfile, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::overrides::log_level_name;
use crate::settings::{Redirection, Settings};

/// Value of the annotation [`labels::INJECTION`] on a pod with a sidecar.
pub const INJECTED: &str = "injected";
/// Number of the format of what is added to a pod with two slots: in pods of one format a sidecar of any release that
/// names it (`podFormats` of the catalogue) can take over from another, whichever injector made the pod. A change of
/// what is added needs the next number (`tests/formats`), unless a sidecar of no release could tell.
pub const FORMAT: u32 = 1;
/// Names of the volumes that are added.
pub const VOLUMES: [&str; 4] = [RUN, TOKEN, TRUST, POD];

const RUN: &str = "meshwright-run";
const TOKEN: &str = "meshwright-token";
const TRUST: &str = "meshwright-trust";
const POD: &str = "meshwright-pod";
const BINARY: &str = "/usr/local/bin/meshwright-proxy";
/// A native sidecar that is not ready by then is started anew; the controller may take its time.
const NATIVE_START_SECONDS: i32 = 600;
/// Kubernetes' default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECONDS: i64 = 30;
/// Life of the projected token; the kubelet renews it at 80 %. Shorter is refused by Kubernetes below 600.
const TOKEN_SECONDS: i64 = 3600;

/// One of the two slots of a sidecar that can be swapped in place (`proxy`, `swap`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The one that is live at first.
    A,
    /// The one that is idle at first.
    B,
}

impl Slot {
    /// Its name in annotations and in the sidecar's environment.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }
}

/// Whether the pod gets two slots. One that shall end by itself does not live long enough.
pub fn has_slots(spec: &PodSpec, settings: &Settings) -> bool {
    settings.strategy == UpgradeStrategy::HotSwap && !ends_by_itself(spec)
}

fn ends_by_itself(spec: &PodSpec) -> bool {
    spec.restart_policy.as_deref().is_some_and(|policy| policy != "Always")
}

/// The sidecar's containers, in order; `probes` is what `MESHWRIGHT_PROBES` says.
pub fn proxies(pod: &Pod, spec: &PodSpec, settings: &Settings, probes: &str) -> Vec<Container> {
    let environment = environment(pod, settings, probes);
    let user = user(spec, settings);
    if !has_slots(spec, settings) {
        let told = is_told(spec, settings);
        return vec![proxy(settings, user, environment, told)];
    }
    let slot = |slot: Slot| {
        let mut environment = environment.clone();
        environment.push(value(labels::SLOT_ENV, slot.name()));
        environment.push(value(labels::SWAP_DRAIN_ENV, &settings.drain_time.as_secs().to_string()));
        proxy(settings, user, environment, true)
    };
    let mut idle = slot(Slot::B);
    labels::PROXY_CONTAINER_B.clone_into(&mut idle.name);
    // The pod is ready when one slot is; and only one of them works at a time, so requests count once.
    idle.startup_probe = None;
    if let Some(lifecycle) = &mut idle.lifecycle {
        lifecycle.post_start = None;
    }
    idle.resources =
        Some(ResourceRequirements { requests: Some(idle_requests()), ..settings.resources.clone() });
    vec![slot(Slot::A), idle]
}

/// The sidecar's user in this pod, one that no container of the pod names.
///
/// A node has at most 128 instances of inotify for each user, unless it is told otherwise (`inotify(7)`,
/// `fs.inotify.max_user_instances`), and an Envoy needs five for the files that it watches: as one user, thirty sidecars
/// would be all that a node can run.
fn user(spec: &PodSpec, settings: &Settings) -> i64 {
    // Not of the standard library's hash, which may be another one with the next compiler.
    let [a, b, c, d, ..] = settings.derive("user");
    let chance = i64::from(u32::from_be_bytes([a, b, c, d]));
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let own = containers.filter_map(|container| container.security_context.as_ref()?.run_as_user);
    let taken: BTreeSet<i64> =
        own.chain(spec.security_context.as_ref().and_then(|pod| pod.run_as_user)).collect();
    let (first, many) =
        (*labels::PROXY_USERS.start(), labels::PROXY_USERS.end() - labels::PROXY_USERS.start() + 1);
    let mut each = (0..many).map(|step| first + (chance + step) % many);
    each.find(|user| !taken.contains(user)).unwrap_or(first)
}

/// What a parked launcher needs. (Left out, requests would be the limits.)
fn idle_requests() -> BTreeMap<String, Quantity> {
    [("cpu", "1m"), ("memory", "8Mi")]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
        .into()
}

fn proxy(settings: &Settings, user: i64, environment: Vec<EnvVar>, told: bool) -> Container {
    let native = settings.native_sidecars;
    let mut mounts = vec![
        mount(RUN, labels::RUN_DIR, false),
        mount(TOKEN, labels::TOKEN_DIR, true),
        mount(TRUST, labels::TRUST_DIR, true),
    ];
    if told {
        mounts.push(mount(POD, labels::POD_DIR, true));
    }
    Container {
        name: labels::PROXY_CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["run".to_owned()]),
        env: Some(environment),
        resources: Some(settings.resources.clone()),
        restart_policy: native.then(|| "Always".to_owned()),
        readiness_probe: Some(readiness(3)),
        // Holds back whatever starts after a native sidecar, as the postStart hook does otherwise.
        startup_probe: native.then(|| readiness(NATIVE_START_SECONDS)),
        lifecycle: Some(Lifecycle {
            post_start: (!native).then(|| exec("wait")),
            pre_stop: Some(exec("drain")),
            ..Lifecycle::default()
        }),
        security_context: Some(SecurityContext {
            run_as_user: Some(user),
            run_as_group: Some(labels::PROXY_GID),
            run_as_non_root: Some(true),
            ..restricted(None)
        }),
        volume_mounts: Some(mounts),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// Whether the sidecar reads annotations of its pod: where the operator says which slot is live; and where the pod
/// shall end by itself and only the API tells that the app has. (The kubelet ends a native sidecar.)
fn is_told(spec: &PodSpec, settings: &Settings) -> bool {
    has_slots(spec, settings) || (ends_by_itself(spec) && !settings.native_sidecars)
}

fn readiness(failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(http_get("/readyz")),
        period_seconds: Some(1),
        timeout_seconds: Some(2),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}

/// The init container that redirects the pod's traffic.
pub fn init(spec: &PodSpec, settings: &Settings) -> Container {
    Container {
        name: labels::INIT_CONTAINER.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(init_arguments(&settings.redirection)),
        // Not an argument: an init container of a release that does not know it would fail.
        env: Some(vec![value(labels::PROXY_USER_ENV, &user(spec, settings).to_string())]),
        resources: Some(settings.resources.clone()),
        security_context: Some(SecurityContext {
            run_as_user: Some(0),
            run_as_group: Some(0),
            // Said explicitly: the pod's own security context may ask for runAsNonRoot.
            run_as_non_root: Some(false),
            ..restricted(Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]))
        }),
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

/// The volumes that [`proxy`] mounts.
pub fn volumes(spec: &PodSpec, settings: &Settings) -> Vec<Volume> {
    let told = is_told(spec, settings).then(told_volume);
    [run(), token(settings), trust()].into_iter().chain(told).collect()
}

fn told_volume() -> Volume {
    let item = |path: &str, field_path: String| DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path }),
        ..DownwardAPIVolumeFile::default()
    };
    let annotation = |name: &str| format!("metadata.annotations['{name}']");
    let items = vec![
        item("apps-ended", annotation(labels::APPS_ENDED)),
        item("live-slot", annotation(labels::LIVE_SLOT)),
        item("release", format!("metadata.labels['{}']", labels::REVISION)),
    ];
    Volume {
        name: POD.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource { items: Some(items), ..Default::default() }),
        ..Volume::default()
    }
}

fn run() -> Volume {
    Volume {
        name: RUN.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { medium: Some("Memory".to_owned()), ..Default::default() }),
        ..Volume::default()
    }
}

fn token(settings: &Settings) -> Volume {
    let token = ServiceAccountTokenProjection {
        audience: Some(labels::audience(&settings.mesh)),
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
    };
    Volume {
        name: TOKEN.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(token),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Volume::default()
    }
}

fn trust() -> Volume {
    let key = labels::TRUST_BUNDLE_KEY.to_owned();
    Volume {
        name: TRUST.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: labels::TRUST_BUNDLE.to_owned(),
            items: Some(vec![KeyToPath { key: key.clone(), path: key, mode: None }]),
            ..Default::default()
        }),
        ..Volume::default()
    }
}

/// Keeps an app container alive while calls that are under way still need it.
pub fn hold(settings: &Settings) -> LifecycleHandler {
    // In the query, so that a sidecar of a release that knows no key answers too.
    let path = format!("/hold?key={}", settings.hook_key());
    LifecycleHandler { http_get: Some(http_get(&path)), ..LifecycleHandler::default() }
}

fn environment(pod: &Pod, settings: &Settings, probes: &str) -> Vec<EnvVar> {
    let spec = pod.spec.as_ref();
    let grace = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECONDS);
    vec![
        value(labels::MESH_ENV, &settings.mesh),
        value(labels::TRUST_DOMAIN_ENV, &settings.trust_domain),
        value(labels::REVISION_ENV, &settings.revision),
        value(labels::CONTROLLER_ENV, &settings.controller),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_UID", "metadata.uid"),
        field("POD_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        value(labels::LOG_LEVEL_ENV, log_level_name(settings.log_level)),
        value(labels::CONCURRENCY_ENV, &settings.concurrency.to_string()),
        value(labels::PROBES_ENV, probes),
        value(labels::HOOK_KEY_ENV, &settings.hook_key()),
        value(labels::GRACE_ENV, &grace.to_string()),
    ]
}

fn init_arguments(redirection: &Redirection) -> Vec<String> {
    let lists = [
        ("--exclude-outbound-ports", joined(&redirection.outbound_ports)),
        ("--exclude-outbound-cidrs", joined(&redirection.outbound_cidrs)),
        ("--exclude-inbound-ports", joined(&redirection.inbound_ports)),
    ];
    let given = lists.into_iter().filter(|(_, list)| !list.is_empty());
    std::iter::once("init".to_owned()).chain(given.flat_map(|(flag, list)| [flag.to_owned(), list])).collect()
}

fn joined<T: Display>(items: &BTreeSet<T>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// What the restricted Pod Security Standard asks for, with the capabilities that are needed after all.
fn restricted(add: Option<Vec<String>>) -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add, drop: Some(vec!["ALL".to_owned()]) }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn http_get(path: &str) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(i32::from(labels::PROXY_PORT)),
        scheme: Some("HTTP".to_owned()),
        ..HTTPGetAction::default()
    }
}

fn exec(verb: &str) -> LifecycleHandler {
    LifecycleHandler {
        exec: Some(ExecAction { command: Some(vec![BINARY.to_owned(), verb.to_owned()]) }),
        ..LifecycleHandler::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn value(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { field_ref: Some(field_ref), ..EnvVarSource::default() }),
        ..EnvVar::default()
    }
}
