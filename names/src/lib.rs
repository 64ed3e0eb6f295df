//! Every label, annotation, port, path and fixed name that two components must agree on.
//!
//! A leaf without any dependency, so that also the sidecar uses it. No other crate writes the label domain or one of these
//! ports, nor a name of ours that another crate writes too (`tests/house/tests/all/names.rs`).

use std::ops::RangeInclusive;

/// Text of a label, annotation or other name in our domain, for use in [`concat!`].
#[macro_export]
macro_rules! in_domain {
    () => {
        "meshwright.io"
    };
    ($name:literal) => {
        concat!("meshwright.io/", $name)
    };
}

/// Domain of labels and annotations, and group of our own kinds.
pub const GROUP: &str = in_domain!();
/// Group and version of our own kinds.
pub const API_VERSION: &str = in_domain!("v1alpha1");

/// Namespace and pod label: the mesh that the namespace (or pod) belongs to.
pub const MESH: &str = "meshwright.io/mesh";
/// Namespace label: the release whose injector serves it. Pod label: the release of its sidecar.
pub const REVISION: &str = "meshwright.io/revision";
/// Namespace annotation: the MeshConfig that labelled it (so that the label is only removed by whom set it).
pub const LABELLED_BY: &str = "meshwright.io/labelled-by";
/// Namespace label: `"true"` lets its pods (Prometheus) reach the metrics of the control plane, where the cluster's network
/// enforces NetworkPolicies.
pub const SCRAPES: &str = "meshwright.io/scrapes";
/// Annotation of a namespace that an installation made.
pub const CREATED_BY: &str = "meshwright.io/created-by";
/// Finalizer of a `PolicySource`.
pub const SOURCE_FINALIZER: &str = "meshwright.io/policy-source";
/// Annotation of the operator: hash of what it last applied.
pub const APPLIED: &str = "meshwright.io/applied";
/// Prefix of the pod annotations that set something of one sidecar.
pub const SIDECAR_PREFIX: &str = "sidecar.meshwright.io/";
/// Webhook that gives pods their sidecar.
pub const INJECTION_WEBHOOK: &str = "inject.meshwright.io";
/// Webhook that judges policies and our own kinds.
pub const VALIDATION_WEBHOOK: &str = "validate.meshwright.io";
/// Pod label or annotation: `"false"` keeps a pod of a watched namespace out of the mesh.
pub const INJECT: &str = "meshwright.io/inject";
/// Annotation of a MeshConfig: `"true"` lets it be deleted although sidecars still need its control plane. Written by
/// `meshwright uninstall`, when it has looked itself or was told to go on all the same.
pub const ALLOW_DELETION: &str = "meshwright.io/allow-deletion";
/// Pod annotation written by the injector: `injected` or `skipped: <Reason>`.
pub const INJECTION: &str = "meshwright.io/injection";
/// Pod annotation written by the operator: `true` once every container of the app has ended for good, so that the
/// sidecar of a pod that shall end (a Job's) ends too.
pub const APPS_ENDED: &str = "meshwright.io/apps-ended";
/// Pod annotation of a pod with two sidecar slots: `a` or `b`, the slot that shall serve. Written by the injector, and
/// by an upgrade together with the image of that slot.
pub const LIVE_SLOT: &str = "meshwright.io/live-slot";
/// Pod annotation: when an upgrade last wrote [`LIVE_SLOT`], in seconds since 1970. Until the old slot has drained its
/// connections ([`SWAP_DRAIN_ENV`]), it is left alone.
pub const SWAPPED_AT: &str = "meshwright.io/swapped-at";
/// Pod annotation written by the injector: the number of the format of what it added to the pod. Releases of the
/// catalogue name the formats that their sidecar can run in (`podFormats`). Absent: the pod is older than formats.
pub const POD_FORMAT: &str = "meshwright.io/pod-format";
/// Namespace annotation: `HotSwap` or `Restart`, for its pods instead of the MeshConfig's `spec.upgrade.strategy`.
pub const UPGRADE_STRATEGY: &str = "meshwright.io/upgrade-strategy";
/// Pod-template annotation written by an upgrade that must surge a workload instead of evicting its pods.
pub const MOVED_TO: &str = "meshwright.io/moved-to";
/// Annotation on a namespace: a person's word on restarting its pods that escaped injection, `Approved` or `Paused`.
pub const RESTART_UNINJECTED: &str = "meshwright.io/restart-uninjected";
/// Label on an object applied from Git: `<namespace>.<name>` of its `PolicySource`.
pub const SOURCE: &str = "meshwright.io/source";
/// Annotation on an object applied from Git: the commit it came from.
pub const COMMIT: &str = "meshwright.io/commit";
/// Annotation on an object applied from Git: file (and line) it came from.
pub const FILE: &str = "meshwright.io/file";
/// Standard label on everything the operator creates.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "meshwright";
/// Standard label: `operator`, `controller` or `injector`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Standard label.
pub const NAME: &str = "app.kubernetes.io/name";
/// Standard label: the release of a control-plane object.
pub const VERSION: &str = "app.kubernetes.io/version";

/// Default namespace of the control plane.
pub const SYSTEM_NAMESPACE: &str = "meshwright-system";
/// The operator: its Deployment, ServiceAccount and field manager.
pub const OPERATOR: &str = "meshwright-operator";
/// Field manager of the revision label of namespaces.
pub const REVISION_MANAGER: &str = "meshwright-operator-revision";
/// The controllers: their ClusterRole and field manager.
pub const CONTROLLER: &str = "meshwright-controller";
/// The injectors: their ClusterRole.
pub const INJECTOR: &str = "meshwright-injector";
/// Name of every revision's controller begins so.
pub const CONTROLLER_PREFIX: &str = "meshwright-controller-";
/// Name of every revision's injector begins so.
pub const INJECTOR_PREFIX: &str = "meshwright-injector-";
/// Secret that holds the root of trust (`tls.crt`, `tls.key`, perhaps `ca.crt`); only the controller may read it.
pub const ROOT_SECRET: &str = "meshwright-root-ca";
/// The other Secret for a root: rotations go back and forth between the two, because rights are given by name.
pub const OTHER_ROOT_SECRET: &str = "meshwright-root-ca-b";
/// Annotation on a root's Secret: the generation of the root.
pub const ROOT_GENERATION: &str = "meshwright.io/root-generation";
/// Annotation on the published [`TRUST_BUNDLE`]: the serial that it was published for, so that a replica that has
/// fallen behind does not undo newer work.
pub const TRUST_SERIAL: &str = "meshwright.io/trust-serial";
/// ConfigMap with the public root(s) (`ca.crt`), in the control plane's namespace and in each watched one.
pub const TRUST_BUNDLE: &str = "meshwright-trust-bundle";
/// Key of [`TRUST_BUNDLE`].
pub const TRUST_BUNDLE_KEY: &str = "ca.crt";
/// Name of the sidecar container.
pub const PROXY_CONTAINER: &str = "meshwright-proxy";
/// Name of the second slot's container, in pods with two.
pub const PROXY_CONTAINER_B: &str = "meshwright-proxy-b";
/// Name of the init container.
pub const INIT_CONTAINER: &str = "meshwright-init";
/// How long a sidecar that another slot took over from keeps its connections, unless the MeshConfig's
/// `spec.upgrade.drainTime` said otherwise when its pod was made.
pub const SWAP_DRAIN_SECONDS: u32 = 300;
/// Environment variable of a slot: its [`SWAP_DRAIN_SECONDS`].
pub const SWAP_DRAIN_ENV: &str = "MESHWRIGHT_SWAP_DRAIN_SECONDS";
/// Environment of a sidecar: its slot, in pods with two.
pub const SLOT_ENV: &str = "MESHWRIGHT_SLOT";
/// Environment of a sidecar: name of its mesh.
pub const MESH_ENV: &str = "MESHWRIGHT_MESH";
/// Environment of a sidecar: trust domain of its mesh.
pub const TRUST_DOMAIN_ENV: &str = "MESHWRIGHT_TRUST_DOMAIN";
/// Environment of a sidecar: release of the injector that injected it.
pub const REVISION_ENV: &str = "MESHWRIGHT_REVISION";
/// Environment of a sidecar: HOST:PORT of the controller.
pub const CONTROLLER_ENV: &str = "MESHWRIGHT_CONTROLLER";
/// Environment of a sidecar: Envoy's log level.
pub const LOG_LEVEL_ENV: &str = "MESHWRIGHT_LOG_LEVEL";
/// Environment of a sidecar: Envoy's threads.
pub const CONCURRENCY_ENV: &str = "MESHWRIGHT_CONCURRENCY";
/// Environment of a sidecar: the probes that it answers for the app, as JSON.
pub const PROBES_ENV: &str = "MESHWRIGHT_PROBES";
/// Environment of a sidecar: the pod's grace period.
pub const GRACE_ENV: &str = "MESHWRIGHT_GRACE_SECONDS";
/// Environment of an image: its release.
pub const VERSION_ENV: &str = "MESHWRIGHT_VERSION";
/// Environment of the operator: prefix of the images that it makes pods of.
pub const IMAGE_PREFIX_ENV: &str = "MESHWRIGHT_IMAGE_PREFIX";
/// Environment of the init container: user id of this pod's sidecar.
pub const PROXY_USER_ENV: &str = "MESHWRIGHT_PROXY_USER";
/// Environment of the sidecar: what whoever asks for a probe or a hook of the app must know.
pub const HOOK_KEY_ENV: &str = "MESHWRIGHT_HOOK_KEY";
/// Group id of the sidecar. Traffic of this group and one of [`PROXY_USERS`] is the sidecar's own, and not redirected.
pub const PROXY_GID: i64 = 1337;
/// User ids of sidecars, of which each pod's has one (decision 11). All of them exist also in a pod with a user namespace
/// of its own (`hostUsers: false`: 0 to 65535).
pub const PROXY_USERS: RangeInclusive<i64> = 20_000..=59_999;

/// Where a sidecar keeps what must not outlive its pod.
pub const RUN_DIR: &str = "/run/meshwright";
/// Where a sidecar keeps its secrets (docs/ARCHITECTURE.md, "Secrets inside the pod").
pub const SECRETS_DIR: &str = "/run/meshwright/sds";
/// Where the token for the controller is mounted.
pub const TOKEN_DIR: &str = "/var/run/secrets/meshwright";
/// The token, in [`TOKEN_DIR`].
pub const TOKEN_FILE: &str = "/var/run/secrets/meshwright/token";
/// Where the [`TRUST_BUNDLE`] is mounted.
pub const TRUST_DIR: &str = "/etc/meshwright/trust";
/// The roots: [`TRUST_BUNDLE_KEY`] in [`TRUST_DIR`].
pub const TRUST_FILE: &str = "/etc/meshwright/trust/ca.crt";
/// Where the annotations of a pod with two slots are mounted.
pub const POD_DIR: &str = "/etc/meshwright/pod";

/// Envoy's virtual outbound listener.
pub const OUTBOUND_PORT: u16 = 15001;
/// Envoy's virtual inbound listener.
pub const INBOUND_PORT: u16 = 15003;
/// Envoy's admin interface, loopback only.
pub const ENVOY_ADMIN_PORT: u16 = 15000;
/// Delta ADS, certificates and fleet state of the controller, one TLS port.
pub const CONTROLLER_PORT: u16 = 15012;
/// Readiness, drain and rewritten probes, served by `meshwright-proxy`.
pub const PROXY_PORT: u16 = 15020;
/// Loopback port of the gate of the first slot, in pods with two.
pub const GATE_PORT_A: u16 = 15021;
/// Loopback port of the gate of the second slot.
pub const GATE_PORT_B: u16 = 15022;
/// Prometheus metrics of Envoy.
pub const PROMETHEUS_PORT: u16 = 15090;
/// What no application of the mesh may listen on.
pub const SIDECAR_PORTS: RangeInclusive<u16> = ENVOY_ADMIN_PORT..=PROMETHEUS_PORT;
/// HTTPS port of the injector's webhooks.
pub const WEBHOOK_PORT: u16 = 9443;
/// Admin port (`/metrics`, `/livez`, `/readyz`, `/debug/state`) of every daemon.
pub const ADMIN_PORT: u16 = 9090;

/// A release version as part of an object's name: `0.2.0` becomes `0-2-0`.
#[must_use]
pub fn dashed(version: &str) -> String {
    version.replace(['.', '+'], "-").to_lowercase()
}

/// Name of a revision's controller: Deployment, Service, ServiceAccount and PodDisruptionBudget.
#[must_use]
pub fn controller_name(version: &str) -> String {
    format!("{CONTROLLER_PREFIX}{}", dashed(version))
}

/// Name of a revision's injector: Deployment, Service, ServiceAccount and PodDisruptionBudget.
#[must_use]
pub fn injector_name(version: &str) -> String {
    format!("{INJECTOR_PREFIX}{}", dashed(version))
}

/// Audience of the projected service-account tokens of a mesh: `<mesh>.meshwright.io`.
#[must_use]
pub fn audience(mesh: &str) -> String {
    format!("{mesh}.{GROUP}")
}

/// SPIFFE id of a service account (SPIFFE-ID specification, section 2).
#[must_use]
pub fn spiffe_id(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}
