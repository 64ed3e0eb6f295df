//! `meshwright inject`: what injection would do to the pods of a file, offline.

use std::path::{Path, PathBuf};

use anyhow::Context;
use crds::labels;
use crds::mesh_config::UpgradeStrategy;
use injector::settings::Secret;
use injector::{Decision, NamespaceMeta, Settings};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::Outcome;
use crate::output::{self, advise};

/// Arguments of `inject`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// File with pods or workloads; - is standard input
    #[arg(short, long)]
    filename: PathBuf,
    /// Say what is decided and which operations the patch has, instead of printing the result
    #[arg(long)]
    explain: bool,
    /// Name of the mesh
    #[arg(long, default_value = "meshwright")]
    mesh: String,
    /// Release of the sidecar
    #[arg(long, default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Namespace of the control plane
    #[arg(long, default_value = labels::SYSTEM_NAMESPACE)]
    mesh_namespace: String,
    /// As in a cluster whose sidecars are native ones (Kubernetes 1.32 and newer)
    #[arg(long)]
    native_sidecars: bool,
    /// As in a mesh or namespace whose upgrade strategy is HotSwap
    #[arg(long)]
    hot_swap: bool,
    /// Prefix of all images
    #[arg(long, default_value = "meshwright/")]
    image_prefix: String,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let text = read(&arguments.filename)?;
    let settings = settings(arguments)?;
    let mut denied = false;
    let mut parts = Vec::new();
    for document in gitops::yaml::documents(&text, gitops::yaml::Format::Yaml)? {
        let place = format!("{}:{}", arguments.filename.display(), document.line());
        let mut object = document.untyped().with_context(|| place.clone())?;
        let decision = decide(&mut object, &settings).with_context(|| place.clone())?;
        denied |= matches!(decision, Some(Decided { decision: Decision::Deny(_), .. }));
        if let Some(Decided { decision: Decision::Deny(problem), .. }) = &decision
            && !arguments.explain
        {
            eprintln!("{place}: {problem}");
        }
        parts.push(if arguments.explain {
            explain(&place, &object, decision.as_ref())
        } else {
            output::yaml(&object)?
        });
    }
    output::print(&parts.join(if arguments.explain { "\n" } else { "---\n" }))?;
    Ok(if denied { Outcome::No } else { Outcome::Done })
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return std::io::read_to_string(std::io::stdin()).context("standard input");
    }
    std::fs::read_to_string(path).map_err(|error| {
        advise(format!("{}: {error}", path.display()), "name a file with -f, or - for standard input")
    })
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let controller = labels::controller_name(&arguments.version);
    let controller =
        format!("{controller}.{}.svc.cluster.local:{}", arguments.mesh_namespace, labels::CONTROLLER_PORT);
    let image = format!("{}proxy:{}", arguments.image_prefix, arguments.version);
    let settings =
        Settings::new(&arguments.mesh, &arguments.mesh_namespace, &arguments.version, &controller, &image);
    let strategy = if arguments.hot_swap { UpgradeStrategy::HotSwap } else { UpgradeStrategy::Restart };
    // Whoever reads the pod can read what is made from it, but nobody else can work it out.
    let secret = Secret::random()?;
    Ok(Settings { native_sidecars: arguments.native_sidecars, strategy, secret, ..settings })
}

/// What injection says about a pod or pod template.
#[derive(Debug, PartialEq)]
struct Decided {
    decision: Decision,
    advice: Vec<String>,
}

/// Injects into the object itself (a Pod) or its pod template. `None` for kinds without pods.
fn decide(object: &mut Value, settings: &Settings) -> anyhow::Result<Option<Decided>> {
    let pointer = match object["kind"].as_str().unwrap_or_default() {
        "Pod" => "",
        "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => return Ok(None),
    };
    let namespace =
        object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
    // Another user id for each workload; only the injector gives each of its pods one.
    let seed = format!("{namespace}/{}", crate::cluster::describe(object));
    let settings = Settings { seed, ..settings.clone() };
    let Some(template) = object.pointer_mut(pointer) else { anyhow::bail!("it has no {pointer}") };
    // A template may leave its metadata out; the API server gives every pod some.
    if let Some(template) = template.as_object_mut() {
        template.entry("metadata").or_insert_with(|| json!({}));
    }
    let pod: Pod = serde_json::from_value(template.clone()).context("it does not read as a pod")?;
    let namespace = NamespaceMeta::assumed(&namespace, &settings.mesh);
    let decision = injector::inject(&pod, &namespace, &settings);
    if let Decision::Inject(patch) | Decision::Skip(_, patch) = &decision {
        json_patch::patch(template, patch).context("the patch does not fit")?;
    }
    let advice = match &decision {
        Decision::Inject(_) => injector::advice::advice(&pod, &namespace),
        Decision::Skip(..) | Decision::Deny(_) => Vec::new(),
    };
    Ok(Some(Decided { decision, advice }))
}

fn explain(place: &str, object: &Value, decided: Option<&Decided>) -> String {
    let name = crate::cluster::describe(object);
    let (verdict, patch) = match decided.map(|decided| &decided.decision) {
        None => ("has no pods".to_owned(), None),
        Some(Decision::Inject(patch)) => ("gets a sidecar".to_owned(), Some(patch)),
        Some(Decision::Skip(reason, patch)) => {
            (format!("is skipped, {reason}: {}", reason.explanation()), Some(patch))
        }
        Some(Decision::Deny(problem)) => (format!("is refused, {problem}"), None),
    };
    let mut text = format!("{place}: {name} {verdict}\n");
    for advice in decided.iter().flat_map(|decided| &decided.advice) {
        text.push_str(&format!("  warning: {advice}\n"));
    }
    for operation in patch.iter().flat_map(|patch| &patch.0) {
        let operation = json!(operation);
        let (op, path) =
            (operation["op"].as_str().unwrap_or_default(), operation["path"].as_str().unwrap_or_default());
        let what = operation.pointer("/value/name").and_then(Value::as_str).map(|name| format!(" ({name})"));
        text.push_str(&format!("  {op:<8} {path}{}\n", what.unwrap_or_default()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_injected_in_its_template() {
        let settings = Settings::new("books", "meshwright-system", "0.2.0", "c:15012", "p:1");
        let mut object = json!({
            "kind": "Deployment", "metadata": {"name": "store", "namespace": "books"},
            "spec": {"template": {"spec": {"containers": [{"name": "app", "image": "app:1"}]}}}
        });
        let decision = decide(&mut object, &settings).unwrap();
        assert_eq!(object["spec"]["template"]["spec"]["containers"][0]["name"], "meshwright-proxy");
        let text = explain("f.yaml:1", &object, decision.as_ref());
        assert!(text.starts_with("f.yaml:1: Deployment books/store gets a sidecar\n"), "{text}");
        assert!(text.contains("add      /spec/containers/0 (meshwright-proxy)"), "{text}");
    }

    #[test]
    fn what_has_no_pods_stays_as_it_is() {
        let settings = Settings::new("books", "meshwright-system", "0.2.0", "c:15012", "p:1");
        let mut object = json!({"kind": "Service", "metadata": {"name": "store"}});
        assert_eq!(decide(&mut object, &settings).unwrap(), None);
        assert!(decide(&mut json!({"kind": "Deployment"}), &settings).is_err());
    }
}
