//! `PolicySource` and `MeshUpgrade`.

use crds::mesh_config::{Below, Floor};
use crds::policy_source::PolicySourceSpec;
use crds::{MeshPolicySpec, MeshUpgrade, duration};

use super::Refusal;

/// The shortest interval between two looks at a repository: below it a typo becomes a burden for the Git server.
const SHORTEST_INTERVAL_SECONDS: u64 = 1;

/// Judges a policy source, of its own or within a MeshConfig at `at`.
pub fn source(at: &str, spec: &PolicySourceSpec) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    match duration::parse(&spec.interval) {
        Ok(interval) if interval.as_secs() < SHORTEST_INTERVAL_SECONDS => {
            refusals.push(Refusal::new(format!("{at}.interval"), "must be at least 1s"));
        }
        Ok(_) => {}
        Err(error) => refusals.push(Refusal::new(format!("{at}.interval"), error.to_string())),
    }
    let url = &spec.git.url;
    let known = ["http://", "https://", "file://", "/"].iter().any(|start| url.starts_with(start));
    if !known || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        let message =
            format!("{url:?} is no address of a repository; write http://…, https://… or an absolute path");
        refusals.push(Refusal::new(format!("{at}.git.url"), message));
    }
    let commit = spec.git.reference.commit.as_deref();
    if commit.is_some_and(|commit| commit.len() != 40 || !commit.bytes().all(|b| b.is_ascii_hexdigit())) {
        refusals.push(Refusal::new(
            format!("{at}.git.ref.commit"),
            "write all 40 hexadecimal digits of the commit",
        ));
    }
    if spec.git.path.split('/').any(|part| part == "..") {
        refusals.push(Refusal::new(format!("{at}.git.path"), "must stay inside the repository (no \"..\")"));
    }
    refusals
}

/// People edit only `approved`, `paused` and `abort`; what an upgrade is about never changes.
pub fn upgrade(upgrade: &MeshUpgrade, before: Option<&MeshUpgrade>) -> Vec<Refusal> {
    let Some(before) = before else { return Vec::new() };
    let same = (&upgrade.spec.mesh, &upgrade.spec.from, &upgrade.spec.to)
        == (&before.spec.mesh, &before.spec.from, &before.spec.to);
    if same {
        return Vec::new();
    }
    let message = "mesh, from and to cannot be changed; edit the MeshConfig's spec.version to go elsewhere";
    vec![Refusal::new("spec", message)]
}

/// What of a MeshPolicy the mesh will not follow.
pub fn below(spec: &MeshPolicySpec, floor: Floor) -> Vec<String> {
    let said = floor.below(spec.mtls, spec.authorization).into_iter();
    let warning = |Below { field, given, floor }| {
        format!("spec.{field}: {given} is below the floor of the mesh, so that {floor} counts")
    };
    said.map(warning).collect()
}
