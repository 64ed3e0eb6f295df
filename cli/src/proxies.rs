//! `meshwright proxies`: every pod of the mesh's namespaces, injected, skipped or why not.

use std::collections::BTreeMap;

use crds::labels;
use crds::membership::{self, Missed};
use injector::{Decision, NamespaceMeta, Settings};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde::Serialize;

use crate::output::{self, Format, FormatArgument};
use crate::table::{Cell, Table, Tone};
use crate::{Outcome, cluster};

/// Arguments of `proxies`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Name of the mesh, when there are several
    #[arg(long)]
    mesh: Option<String>,
    /// Only this namespace
    #[arg(short, long)]
    namespace: Option<String>,
    /// Also pods of namespaces outside the mesh
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    #[command(flatten)]
    format: FormatArgument,
}

/// One pod.
#[derive(Serialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    pod: String,
    injection: String,
    version: String,
    ready: bool,
    /// What it means and what to do; empty for a pod with a ready sidecar.
    why: String,
}

/// Runs the verb.
pub async fn run(arguments: Arguments, access: &cluster::Access) -> anyhow::Result<Outcome> {
    let client = cluster::connect(access).await?;
    let mesh = cluster::mesh(&client, arguments.mesh.as_deref()).await?;
    let settings = Settings::new(&mesh.name_any(), &mesh.spec.namespace, "", "", "");
    let namespaces = cluster::list(&Api::<Namespace>::all(client.clone()), &ListParams::default()).await?;
    let namespaces: BTreeMap<_, _> =
        namespaces.iter().flatten().map(|namespace| (namespace.name_any(), Home::of(namespace))).collect();
    let api: Api<Pod> = match &arguments.namespace {
        Some(namespace) => Api::namespaced(client, namespace),
        None => Api::all(client),
    };
    let pods = cluster::list(&api, &ListParams::default()).await?.unwrap_or_default();
    let everywhere = arguments.all_namespaces || arguments.namespace.is_some();
    let wanted = |home: &Home| everywhere || home.meta.labels.get(labels::MESH) == Some(&settings.mesh);
    let mut rows: Vec<_> = pods
        .iter()
        .filter_map(|pod| Some((pod, namespaces.get(&pod.namespace()?)?)))
        .filter(|(_, home)| wanted(home))
        .map(|(pod, home)| row(pod, home, &settings))
        .collect();
    rows.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    match arguments.format.output {
        Format::Table if rows.is_empty() => {
            let mesh = &settings.mesh;
            output::print(&format!(
                "No namespace of mesh {mesh} has a pod.\n  next: kubectl label namespace NAMESPACE {}={mesh}\n",
                labels::MESH
            ))?;
        }
        Format::Table => output::print(&text(&rows, output::colour()))?,
        format => output::print_value(&rows, format)?,
    }
    Ok(Outcome::Done)
}

/// A pod's namespace.
struct Home {
    meta: NamespaceMeta,
    labelled_at: Option<Timestamp>,
}

impl Home {
    fn of(namespace: &Namespace) -> Self {
        let labelled_at = membership::labelled_at(&namespace.metadata);
        Self { meta: NamespaceMeta::of(namespace), labelled_at }
    }
}

fn row(pod: &Pod, home: &Home, settings: &Settings) -> Row {
    let injected = pod.annotations().get(labels::INJECTION).is_some_and(|value| value == "injected");
    let version = pod.labels().get(labels::REVISION).filter(|_| injected).cloned().unwrap_or_default();
    let ready = injected && proxy_is_ready(pod);
    let (injection, why) = if injected {
        let why = if ready { "" } else { "kubectl logs POD -c meshwright-proxy" };
        ("Injected".to_owned(), why.replace("POD", &pod.name_any()))
    } else {
        why_not(pod, home, settings)
    };
    Row { namespace: home.meta.name.clone(), pod: pod.name_any(), injection, version, ready, why }
}

/// The injector's own judgement, asked now. A pod that it would inject has missed it.
fn why_not(pod: &Pod, home: &Home, settings: &Settings) -> (String, String) {
    match injector::inject(pod, &home.meta, settings) {
        Decision::Skip(reason, _) => (reason.name().to_owned(), reason.explanation().to_owned()),
        Decision::Deny(problem) => (problem.reason.name().to_owned(), problem.message),
        Decision::Inject(_) => {
            let made = pod.creation_timestamp().map(|time| time.0);
            let missed = Missed::judge(made, home.labelled_at);
            ("NotInjected".to_owned(), format!("{}; restart its workload", missed.explanation()))
        }
    }
}

/// Whether the container of the live slot is ready; a native sidecar is an init container that goes on running.
fn proxy_is_ready(pod: &Pod) -> bool {
    let live = match pod.annotations().get(labels::LIVE_SLOT).map(String::as_str) {
        Some("b") => labels::PROXY_CONTAINER_B,
        _ => labels::PROXY_CONTAINER,
    };
    let Some(status) = &pod.status else { return false };
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    all.into_iter().any(|container| container.name == live && container.ready)
}

fn text(rows: &[Row], colour: bool) -> String {
    let mut table = Table::new(["NAMESPACE", "POD", "INJECTION", "VERSION", "READY", "WHY"]);
    for row in rows {
        let injected = row.injection == "Injected";
        let tone = match row.injection.as_str() {
            "Injected" => Tone::Good,
            "NotInjected" => Tone::Bad,
            _ => Tone::Plain,
        };
        let ready = match (injected, row.ready) {
            (true, true) => Cell::new("True", Tone::Good),
            (true, false) => Cell::new("False", Tone::Bad),
            (false, _) => "".into(),
        };
        table.row([
            row.namespace.as_str().into(),
            row.pod.as_str().into(),
            Cell::new(&row.injection, tone),
            row.version.as_str().into(),
            ready,
            row.why.as_str().into(),
        ]);
    }
    table.render(colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(name: &str, extra: &serde_json::Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "bookstore"},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]}
        });
        json_patch::merge(&mut pod, extra);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn every_pod_has_its_reason() {
        let settings = Settings::new("books", "meshwright-system", "", "", "");
        let home = |meta| Home { meta, labelled_at: "2026-01-02T00:00:00Z".parse().ok() };
        let ours = home(NamespaceMeta::assumed("bookstore", "books"));
        let foreign = home(NamespaceMeta { name: "elsewhere".to_owned(), ..NamespaceMeta::default() });
        let made = |time: &str| json!({"metadata": {"creationTimestamp": time}});
        let injected = json!({
            "metadata": {"annotations": {labels::INJECTION: "injected"}, "labels": {labels::REVISION: "0.2.0"}},
            "status": {"containerStatuses": [{"name": "meshwright-proxy", "ready": true, "image": "", "imageID": "", "restartCount": 0}]}
        });
        let rows = [
            row(&pod("a", &injected), &ours, &settings),
            row(&pod("b", &json!({"spec": {"hostNetwork": true}})), &ours, &settings),
            row(&pod("c", &made("2026-01-01T00:00:00Z")), &ours, &settings),
            row(&pod("d", &json!({})), &foreign, &settings),
            row(&pod("e", &made("2026-01-02T00:00:00Z")), &ours, &settings),
        ];
        let text = text(&rows, false);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "bookstore   a     Injected              0.2.0     True    -");
        assert!(
            lines[2]
                .contains("b     HostNetwork           -         -       the pod uses the node's network")
        );
        assert!(lines[3].contains("c     NotInjected           -         -       the pod is older"));
        assert!(lines[4].contains("d     NamespaceNotWatched   -         -       the namespace is not part"));
        assert!(lines[5].contains("e     NotInjected           -         -       the pod was made after"));
    }

    #[test]
    fn a_native_sidecar_and_the_second_slot_are_ready_when_they_are() {
        let status = |name: &str, ready: bool| json!([{"name": name, "ready": ready, "image": "", "imageID": "", "restartCount": 0}]);
        let ready = |annotations: serde_json::Value, status: serde_json::Value| {
            proxy_is_ready(&pod("p", &json!({"metadata": {"annotations": annotations}, "status": status})))
        };
        let native = json!({"initContainerStatuses": status("meshwright-proxy", true)});
        assert!(ready(json!({}), native));
        let starting = json!({"initContainerStatuses": status("meshwright-proxy", false)});
        assert!(!ready(json!({}), starting));
        let second = json!({"containerStatuses": status("meshwright-proxy-b", true)});
        assert!(ready(json!({labels::LIVE_SLOT: "b"}), second.clone()));
        assert!(!ready(json!({labels::LIVE_SLOT: "a"}), second));
    }
}
