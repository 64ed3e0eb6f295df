//! Whether a cluster can take a mesh.

use std::collections::BTreeSet;

use anyhow::Context;
use crds::labels;
use k8s_openapi::ClusterResourceScope;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{Namespace, Node};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::{Check, Finding};
use crate::definitions::{self, Step};
use crate::manifests::{self, Options};
use crate::supported;

/// Injectors of other meshes: two sidecars in a pod would each redirect the other's traffic.
const OTHER_MESHES: [(&str, &str); 4] = [
    ("istio-sidecar-injector", "Istio"),
    ("istio-revision-tag", "Istio"),
    ("linkerd-proxy-injector", "Linkerd"),
    ("osm-webhook", "Open Service Mesh"),
];
/// What the level of Pod Security is written in (Kubernetes, "Pod Security Admission").
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Reads what is there and judges it.
pub async fn look(client: &Client, namespace: &str, watch: &[String]) -> anyhow::Result<Vec<Finding>> {
    let options = Options {
        mesh: labels::MANAGER.to_owned(),
        namespace: namespace.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        operator_version: env!("CARGO_PKG_VERSION").to_owned(),
        image_prefix: String::new(),
        ca_provider: None,
        watch: Vec::new(),
        floor: None,
    };
    let mut wanted = manifests::system(&options)?;
    wanted.push(manifests::mesh_config(&options));
    let version = client.apiserver_version().await.context("the version of the API server")?;
    let mut findings = vec![supported::finding(&version), rights(&missing_rights(client, &wanted).await?)];
    findings.extend(definitions(client, &wanted).await);
    findings.extend(judged(client, Check::Nodes, |nodes: &[Node]| vec![machines(nodes)]).await);
    let webhooks = |all: &[MutatingWebhookConfiguration]| vec![other_meshes(all)];
    findings.extend(judged(client, Check::OtherMeshes, webhooks).await);
    let namespaces = |all: &[Namespace]| pod_security(all, watch);
    findings.extend(judged(client, Check::PodSecurity, namespaces).await);
    Ok(findings)
}

/// Judges all objects of a kind. What cannot be read is not judged, and that is said.
async fn judged<K>(client: &Client, check: Check, judge: impl FnOnce(&[K]) -> Vec<Finding>) -> Vec<Finding>
where
    K: kube::Resource<Scope = ClusterResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
        Ok(all) => judge(&all.items),
        Err(error) => vec![unread(check, &K::plural(&()), &error)],
    }
}

fn unread(check: Check, what: &str, error: &kube::Error) -> Finding {
    Finding::warning(
        check,
        format!("not looked at, {what} cannot be read: {error}"),
        "look as somebody who may (--as)",
    )
}

/// What an installation writes that the user may not.
async fn missing_rights(client: &Client, wanted: &[Value]) -> anyhow::Result<Vec<String>> {
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let mut missing = Vec::new();
    for (group, resource, namespace) in kinds(wanted)? {
        for verb in ["create", "patch"] {
            let attributes = ResourceAttributes {
                group: Some(group.clone()),
                resource: Some(resource.clone()),
                namespace: namespace.clone(),
                verb: Some(verb.to_owned()),
                ..ResourceAttributes::default()
            };
            let spec =
                SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            let said = reviews.create(&PostParams::default(), &review).await.context("asking for rights")?;
            if !said.status.is_some_and(|status| status.allowed) {
                missing.push(format!("{verb} {resource}"));
            }
        }
    }
    Ok(missing)
}

/// Group, resource and namespace of everything that is written, each once.
fn kinds(wanted: &[Value]) -> anyhow::Result<BTreeSet<(String, String, Option<String>)>> {
    let mut all = BTreeSet::new();
    for object in wanted {
        let object: DynamicObject = serde_json::from_value(object.clone()).context("a manifest")?;
        let types = object.types.as_ref().context("a manifest without a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(types)?);
        all.insert((resource.group, resource.plural, object.metadata.namespace));
    }
    Ok(all)
}

fn rights(missing: &[String]) -> Finding {
    match missing {
        [] => Finding::passed(Check::Rights, "you may write everything that an installation writes"),
        missing => Finding::failed(
            Check::Rights,
            format!("you may not {}", missing.join(", ")),
            "install as a cluster administrator (--as, --context)",
        ),
    }
}

async fn definitions(client: &Client, wanted: &[Value]) -> Vec<Finding> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut findings = Vec::new();
    for object in wanted.iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        match api.get_opt(name).await {
            Ok(live) => findings.extend(definition(name, definitions::decide(object, live.as_ref(), false))),
            // Of the others no more could be read.
            Err(error) => return vec![unread(Check::Definitions, name, &error)],
        }
    }
    if findings.is_empty() {
        findings.push(Finding::passed(Check::Definitions, "none is in the way"));
    }
    findings
}

fn definition(name: &str, step: Step) -> Option<Finding> {
    match step {
        Step::Apply | Step::Overwrite(_) => None,
        Step::Leave(differences) if differences.is_empty() => None,
        Step::Leave(differences) => Some(Finding::warning(
            Check::Definitions,
            format!("{name} is somebody else's and stays; different: {}", differences.join(", ")),
            "--force-conflicts overwrites it",
        )),
        Step::Refuse(missing) => Some(Finding::failed(
            Check::Definitions,
            format!(
                "{name} is somebody else's and does not serve what the mesh reads: {}",
                missing.join(", ")
            ),
            "update it, or install with --force-conflicts",
        )),
    }
}

/// Our images are for one kind of machine.
fn machines(nodes: &[Node]) -> Finding {
    let label = |node: &Node, key: &str| node.labels().get(key).cloned().unwrap_or_default();
    let fits = |node: &&Node| {
        label(node, "kubernetes.io/os") == "linux" && label(node, "kubernetes.io/arch") == "amd64"
    };
    let others: Vec<_> = nodes.iter().filter(|node| !fits(node)).map(ResourceExt::name_any).collect();
    match (nodes.len() - others.len(), others.as_slice()) {
        (0, []) => Finding::warning(Check::Nodes, "there is none, so nothing will run", "kubectl get nodes"),
        (fitting, []) => Finding::passed(Check::Nodes, format!("each of {fitting} is linux/amd64")),
        (0, _) => {
            Finding::failed(Check::Nodes, "none is linux/amd64, which the images are for", "add such a node")
        }
        (fitting, others) => Finding::warning(
            Check::Nodes,
            format!("{fitting} are linux/amd64, which the images are for; not so: {}", others.join(", ")),
            "keep meshed pods off them (nodeSelector kubernetes.io/arch: amd64)",
        ),
    }
}

fn other_meshes(webhooks: &[MutatingWebhookConfiguration]) -> Finding {
    let of = |webhook: &MutatingWebhookConfiguration| {
        let name = webhook.name_any();
        OTHER_MESHES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, mesh)| *mesh)
    };
    let others: BTreeSet<_> = webhooks.iter().filter_map(of).collect();
    match others.into_iter().collect::<Vec<_>>().as_slice() {
        [] => Finding::passed(Check::OtherMeshes, "none injects sidecars here"),
        others => Finding::warning(
            Check::OtherMeshes,
            format!("{} injects sidecars here too", others.join(", ")),
            "watch only namespaces that it does not inject into: one pod takes one sidecar",
        ),
    }
}

/// Namespaces that are, or shall be, of a mesh must let a pod's init container redirect its traffic.
fn pod_security(namespaces: &[Namespace], watch: &[String]) -> Vec<Finding> {
    let meant = |one: &&Namespace| watch.contains(&one.name_any()) || one.labels().contains_key(labels::MESH);
    let mut findings = Vec::new();
    for namespace in namespaces.iter().filter(meant) {
        let name = namespace.name_any();
        match namespace.labels().get(ENFORCE).map(String::as_str) {
            None | Some("privileged") => {}
            Some(level) => findings.push(Finding::failed(
                Check::PodSecurity,
                format!(
                    "namespace {name} enforces {level}, which refuses the NET_ADMIN of the init container"
                ),
                format!("kubectl label namespace {name} {ENFORCE}=privileged --overwrite"),
            )),
        }
    }
    for name in watch.iter().filter(|name| !namespaces.iter().any(|one| one.name_any() == **name)) {
        findings.push(Finding::warning(
            Check::Namespaces,
            format!("there is no namespace {name}"),
            format!("kubectl create namespace {name}"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::passed(Check::PodSecurity, "no namespace of the mesh refuses its pods"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::State;

    fn named<K: serde::de::DeserializeOwned>(name: &str, labels: &Value) -> K {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    }

    #[test]
    fn namespaces_that_would_refuse_sidecars_are_named() {
        let all: Vec<Namespace> = vec![
            named("free", &json!({labels::MESH: "m"})),
            named("strict", &json!({labels::MESH: "m", ENFORCE: "restricted"})),
            named("shop", &json!({ENFORCE: "baseline"})),
            named("other", &json!({ENFORCE: "restricted"})),
        ];
        let findings = pod_security(&all, &["shop".to_owned(), "gone".to_owned()]);
        let says: Vec<_> = findings.iter().map(|one| (one.state, one.says.as_str())).collect();
        assert!(says[0].1.contains("strict") && says[1].1.contains("shop"), "{says:?}");
        assert_eq!(says[2], (State::Warning, "there is no namespace gone"));
        assert_eq!(says.len(), 3);
        assert_eq!(pod_security(&all[..1], &[])[0].state, State::Passed);
    }

    #[test]
    fn machines_that_the_images_are_not_for_are_named() {
        let node = |name: &str, arch: &str| -> Node {
            named(name, &json!({"kubernetes.io/os": "linux", "kubernetes.io/arch": arch}))
        };
        assert_eq!(machines(&[node("a", "amd64")]).state, State::Passed);
        let mixed = machines(&[node("a", "amd64"), node("b", "arm64")]);
        assert!(mixed.state == State::Warning && mixed.says.ends_with("not so: b"), "{mixed:?}");
        assert_eq!(machines(&[node("b", "arm64")]).state, State::Failed);
    }

    #[test]
    fn another_mesh_is_no_secret() {
        assert_eq!(other_meshes(&[named("meshwright-injector", &json!({}))]).state, State::Passed);
        let found = other_meshes(&[named("istio-sidecar-injector-1-20", &json!({}))]);
        assert!(found.state == State::Warning && found.says.starts_with("Istio"), "{found:?}");
    }

    #[test]
    fn every_kind_that_is_written_is_asked_about() {
        let options = Options {
            mesh: "m".to_owned(),
            namespace: "n".to_owned(),
            version: "0.2.0".to_owned(),
            operator_version: "0.2.0".to_owned(),
            image_prefix: String::new(),
            ca_provider: None,
            watch: Vec::new(),
            floor: None,
        };
        let kinds = kinds(&manifests::system(&options).unwrap()).unwrap();
        let plurals: Vec<_> = kinds.iter().map(|(_, plural, _)| plural.as_str()).collect();
        for plural in
            ["customresourcedefinitions", "clusterroles", "deployments", "networkpolicies", "namespaces"]
        {
            assert!(plurals.contains(&plural), "{plural} in {plurals:?}");
        }
    }
}
