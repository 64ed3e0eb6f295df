//! `MeshConfig`. Whether its version exists and can be reached is not judged here: the catalogue belongs to the
//! operator, which says so in a condition.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::mesh_config::{Below, CaProvider, Traffic, Wave};
use crds::{MeshConfig, MeshConfigSpec, duration, labels};
use kube::core::DynamicObject;

use super::{Refusal, ours};
use crate::settings::Settings;

/// Below this, renewal (at two thirds of the life) leaves no time for a controller that is restarting.
const SHORTEST_WORKLOAD_TTL: Duration = Duration::from_secs(600);

/// Judges a mesh, and what an update may not change.
pub fn judge(config: &MeshConfig, before: Option<&MeshConfig>) -> Vec<Refusal> {
    let spec = &config.spec;
    let mut refusals = Vec::new();
    refusals.extend(names(config));
    refusals.extend(certificates(spec));
    refusals.extend(duration_of("spec.upgrade.soak", &spec.upgrade.soak).err());
    refusals.extend(waves(&spec.upgrade.waves));
    refusals.extend(floor(&spec.traffic));
    if !(1..=32).contains(&spec.control_plane.replicas) {
        refusals.push(Refusal::new("spec.controlPlane.replicas", "must be from 1 to 32"));
    }
    // The injector's own reading of the settings: what it cannot use must not be stored.
    let reading = Settings::new("", "", "", "", "").with(spec);
    refusals.extend(reading.err().map(|bad| Refusal::new(bad.field, bad.message)));
    let mut seen = BTreeSet::new();
    for (index, named) in spec.policy_sources.iter().enumerate() {
        let at = format!("spec.policySources[{index}]");
        if !is_label(&named.name) {
            refusals.push(Refusal::new(format!("{at}.name"), not_a_name(&named.name)));
        }
        if !seen.insert(&named.name) {
            refusals.push(Refusal::new(format!("{at}.name"), format!("{:?} is named twice", named.name)));
        }
        refusals.extend(ours::source(&at, &named.source));
    }
    refusals.extend(before.into_iter().flat_map(|before| changes(config, before)));
    refusals
}

/// A mesh whose own modes are below its floor says two things at once.
fn floor(traffic: &Traffic) -> Vec<Refusal> {
    let below = traffic.floor.unwrap_or_default().below(Some(traffic.mtls), Some(traffic.authorization));
    let refusal = |Below { field, given, floor }| {
        let message =
            format!("{given} is below spec.traffic.floor, {floor}; say {floor} here, or lower the floor");
        Refusal::new(format!("spec.traffic.{field}"), message)
    };
    below.into_iter().map(refusal).collect()
}

/// A MeshConfig that sidecars live by is not deleted by accident. Its status says how many there are; a status that is
/// too old says too many (then `uninstall` has looked itself) or too few (then the root of trust still outlives it).
/// Read leniently: a MeshConfig that our types cannot read must stay deletable.
pub fn judge_deletion(object: &DynamicObject) -> Option<Refusal> {
    let annotations = object.metadata.annotations.as_ref();
    if annotations.is_some_and(|all| all.get(labels::ALLOW_DELETION).is_some_and(|value| value == "true")) {
        return None;
    }
    let count = |field: &str| object.data["status"]["proxies"][field].as_i64().unwrap_or_default();
    // Those that are not connected just now, because the controllers restart, need it no less.
    let sidecars = count("total").max(count("connected"));
    (sidecars > 0).then(|| {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let message = format!(
            "{sidecars} sidecars live by MeshConfig {name}: without its control plane they get no certificate and no \
             configuration any more. Take their namespaces out of the mesh and restart their workloads first \
             (meshwright proxies lists them), then: meshwright uninstall. To delete it all the same: kubectl annotate \
             meshconfig {name} {}=true",
            labels::ALLOW_DELETION
        );
        Refusal::new("", message)
    })
}

fn names(config: &MeshConfig) -> Vec<Refusal> {
    let spec = &config.spec;
    let mut refusals = Vec::new();
    // The mesh's name becomes a label value and part of object names.
    let name = config.metadata.name.as_deref().unwrap_or_default();
    if !is_label(name) {
        refusals.push(Refusal::new("metadata.name", not_a_name(name)));
    }
    if !is_version(&spec.version) {
        let message = format!("{:?} is no release; write for example 0.2.0", short(&spec.version));
        refusals.push(Refusal::new("spec.version", message));
    }
    if !is_label(&spec.namespace) {
        refusals.push(Refusal::new("spec.namespace", not_a_name(&spec.namespace)));
    }
    for (index, namespace) in spec.watched_namespaces.names.iter().enumerate() {
        let field = format!("spec.watchedNamespaces.names[{index}]");
        if !is_label(namespace) {
            refusals.push(Refusal::new(field, not_a_name(namespace)));
        } else if *namespace == spec.namespace {
            refusals
                .push(Refusal::new(field, "the control plane's own namespace cannot be part of its mesh"));
        }
    }
    refusals
}

fn certificates(spec: &MeshConfigSpec) -> Vec<Refusal> {
    let authority = &spec.certificate_authority;
    let workload = duration_of("spec.certificateAuthority.workloadTTL", &authority.workload_ttl);
    let root = duration_of("spec.certificateAuthority.rootTTL", &authority.root_ttl);
    if authority.root_generation < 1 {
        return vec![Refusal::new("spec.certificateAuthority.rootGeneration", "must be at least 1")];
    }
    if authority.provider == CaProvider::Secret && authority.root_generation > 1 {
        let message = "is only for provider BuiltIn; with Secret, replace the Secret to rotate the root";
        return vec![Refusal::new("spec.certificateAuthority.rootGeneration", message)];
    }
    match (workload, root) {
        (Ok(workload), Ok(root)) => {
            let field = "spec.certificateAuthority.workloadTTL";
            let short =
                (workload < SHORTEST_WORKLOAD_TTL).then(|| Refusal::new(field, "must be at least 10m"));
            let long = (workload >= root).then(|| Refusal::new(field, "must be shorter than rootTTL"));
            short.into_iter().chain(long).collect()
        }
        (workload, root) => workload.err().into_iter().chain(root.err()).collect(),
    }
}

fn waves(waves: &[Wave]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    let (mut names, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
    for (index, wave) in waves.iter().enumerate() {
        let at = format!("spec.upgrade.waves[{index}]");
        if wave.name.is_empty() || !names.insert(&wave.name) {
            refusals.push(Refusal::new(format!("{at}.name"), "give each wave a name of its own"));
        }
        let twice = wave.namespaces.iter().find(|namespace| !namespaces.insert(*namespace));
        if let Some(namespace) = twice {
            let message = format!("namespace {:?} is in two waves; name it once", short(namespace));
            refusals.push(Refusal::new(format!("{at}.namespaces"), message));
        }
    }
    refusals
}

fn changes(config: &MeshConfig, before: &MeshConfig) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    if config.spec.namespace != before.spec.namespace {
        let message = format!("cannot be changed; it is {:?}", before.spec.namespace);
        refusals.push(Refusal::new("spec.namespace", message));
    }
    let proxies = before.status.as_ref().and_then(|status| status.proxies.as_ref()).map_or(0, |p| p.total);
    if config.spec.trust_domain != before.spec.trust_domain && proxies > 0 {
        let message =
            format!("cannot be changed while {proxies} workloads have identities of the old trust domain");
        refusals.push(Refusal::new("spec.trustDomain", message));
    }
    refusals
}

fn duration_of(field: &str, text: &str) -> Result<Duration, Refusal> {
    duration::parse(text).map_err(|error| Refusal::new(field, error.to_string()))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Three numbers and perhaps a suffix. The version becomes part of object names, so its length matters.
fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<_> = core.split('.').collect();
    let number = |part: &&str| (1..=6).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    text.len() <= 32
        && numbers.len() == 3
        && numbers.iter().all(number)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'+'))
}

fn not_a_name(text: &str) -> String {
    format!("{:?} is no name; write at most 63 lower-case letters, digits and dashes", short(text))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
