//! `meshwright validate`: what the operator would say of these files, before they are committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use gitops::{Commit, Namespaces, Policy, PolicySpec, Problem, RepoPath, What};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh::Object;

use crate::Outcome;
use crate::output::{self, advise};

/// Arguments of `validate`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// File or folder of policies, as it would be in the repository
    path: PathBuf,
    /// Judge as a team's source, which may hold objects of this namespace only
    #[arg(short, long)]
    namespace: Option<String>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let mut files = BTreeMap::new();
    let mut problems = Vec::new();
    gather(&arguments.path, &arguments.path, &mut files, &mut problems)?;
    let scope = arguments.namespace.clone().map_or(Namespaces::Any, Namespaces::Own);
    // Files on disk are of no commit yet.
    let commit = Commit { id: "0".repeat(40), subject: String::new(), time: String::new() };
    let (bundle, found) = gitops::parse(commit, &files, &scope);
    problems.extend(found.iter().map(ToString::to_string));
    problems.extend(bundle.policies.iter().filter_map(judge));
    for problem in &problems {
        output::print(&format!("{problem}\n"))?;
    }
    if problems.is_empty() {
        let names: String = bundle.policies.iter().map(|policy| format!("  {}\n", policy.key)).collect();
        output::print(&format!("{} policies are good\n{names}", bundle.policies.len()))?;
        return Ok(Outcome::Done);
    }
    Ok(Outcome::No)
}

/// What the mesh would say of a policy, with the place where it is written.
fn judge(policy: &Policy) -> Option<String> {
    let metadata = ObjectMeta {
        name: Some(policy.key.name.clone()),
        namespace: Some(policy.key.namespace.clone()),
        ..ObjectMeta::default()
    };
    let name = &policy.key.name;
    macro_rules! object {
        ($kind:ident, $spec:ident) => {{
            let mut object = crds::$kind::new(name, $spec.clone());
            object.metadata = metadata;
            Object::from(object)
        }};
    }
    let object = match &policy.spec {
        PolicySpec::TrafficTarget(spec) => object!(TrafficTarget, spec),
        PolicySpec::HTTPRouteGroup(spec) => object!(HTTPRouteGroup, spec),
        PolicySpec::TCPRoute(spec) => object!(TCPRoute, spec),
        PolicySpec::TrafficSplit(spec) => object!(TrafficSplit, spec),
        PolicySpec::MeshPolicy(spec) => object!(MeshPolicy, spec),
        PolicySpec::Egress(spec) => object!(Egress, spec),
        PolicySpec::IngressBackend(spec) => object!(IngressBackend, spec),
        PolicySpec::Retry(spec) => object!(Retry, spec),
        PolicySpec::UpstreamTrafficSetting(spec) => object!(UpstreamTrafficSetting, spec),
    };
    mesh::ingest::ingest(&object).err().map(|problem| format!("{}: {problem}", policy.place()))
}

/// Reads a file, or the files of a folder as git would hold them: no links, nothing hidden, nothing but text.
fn gather(
    root: &Path,
    path: &Path,
    files: &mut BTreeMap<RepoPath, String>,
    problems: &mut Vec<String>,
) -> anyhow::Result<()> {
    let kind = fs::symlink_metadata(path)
        .map_err(|error| advise(format!("{}: {error}", path.display()), "name a file or folder of policies"))?
        .file_type();
    if kind.is_dir() {
        let entries: Result<Vec<_>, _> = fs::read_dir(path).context("reading the folder")?.collect();
        let mut paths: Vec<_> =
            entries.context("reading the folder")?.into_iter().map(|entry| entry.path()).collect();
        paths.sort();
        return paths.iter().try_for_each(|path| gather(root, path, files, problems));
    }
    let relative = match path.strip_prefix(root) {
        Ok(relative) if relative.as_os_str().is_empty() => {
            Path::new(path.file_name().unwrap_or(path.as_os_str()))
        }
        Ok(relative) => relative,
        Err(_) => path,
    };
    let name = match RepoPath::new(&relative.to_string_lossy()) {
        Ok(name) => name,
        Err(error) => {
            problems.push(error.to_string());
            return Ok(());
        }
    };
    if !gitops::bundle::is_policy_file(&name) {
        return Ok(());
    }
    if kind.is_symlink() {
        problems.push(Problem::at(&name, 0, What::SymbolicLink).to_string());
        return Ok(());
    }
    match String::from_utf8(fs::read(path).with_context(|| path.display().to_string())?) {
        Ok(text) => drop(files.insert(name, text)),
        Err(_) => problems.push(Problem::at(&name, 0, What::NotText).to_string()),
    }
    Ok(())
}
