//! Reads the facts of one reconcile. A read that fails fails the reconcile: nothing is decided on half the facts.

use std::collections::{BTreeMap, BTreeSet};

use crds::{MeshConfig, MeshUpgrade, PolicySource, labels, membership};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use upgrades::uninjected::Word;

use super::facts::{
    BarePod, BudgetApi, DeploymentFact, Facts, MatchConditions, NamespaceFact, PodFact, Server,
};
use super::rotation;
use crate::apply::REVISION_MANAGER;
use crate::fleet::FleetView;

mod holders;

/// Reads everything about a mesh; `fleet` is what was last heard from its controllers.
///
/// # Errors
/// The first read that fails.
pub async fn gather(
    client: &Client,
    mesh: &MeshConfig,
    fleet: Option<FleetView>,
) -> Result<Facts, kube::Error> {
    let name = mesh.name_any();
    let namespace = &mesh.spec.namespace;
    let ours = ListParams::default().labels(&format!(
        "{}={},{}={name}",
        labels::MANAGED_BY,
        labels::MANAGER,
        labels::MESH
    ));
    let meshes: Api<MeshConfig> = Api::all(client.clone());
    let sources: Api<PolicySource> = Api::namespaced(client.clone(), namespace);
    let upgrades: Api<MeshUpgrade> = Api::all(client.clone());
    let webhooks: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let all = ListParams::default();
    let (meshes, sources, upgrades, webhooks, namespaces, pods, bare, deployments, trust_bundle, server) = futures::try_join!(
        meshes.list(&all),
        sources.list(&all),
        upgrades.list(&all),
        webhooks.list_metadata(&ours),
        namespaces(client),
        pods(client, &name),
        bare(client),
        deployments(client, namespace, &ours),
        trust_bundle(client, namespace),
        server(client),
    )?;
    Ok(Facts {
        meshes: meshes.items.into_iter().filter(|mesh| mesh.metadata.deletion_timestamp.is_none()).collect(),
        namespaces,
        pods,
        bare,
        deployments,
        webhooks: webhooks.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>(),
        trust_bundle,
        server,
        sources: sources.items,
        upgrades: upgrades.items.into_iter().filter(|upgrade| upgrade.spec.mesh == name).collect(),
        holders: holders(client, mesh).await?,
        fleet,
    })
}

/// Holders of certificates, while somebody waits for them.
async fn holders(client: &Client, mesh: &MeshConfig) -> Result<Option<Vec<(String, String)>>, kube::Error> {
    let root = mesh.status.as_ref().and_then(|status| status.certificate_authority.as_ref());
    if rotation::needs_holders(root) {
        holders::holders(client, &mesh.name_any()).await.map(Some)
    } else {
        Ok(None)
    }
}

/// Every namespace, as facts.
///
/// # Errors
/// When they cannot be listed.
pub async fn namespaces(client: &Client) -> Result<Vec<NamespaceFact>, kube::Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    Ok(api.list_metadata(&ListParams::default()).await?.iter().map(namespace).collect())
}

fn namespace(object: &PartialObjectMeta<Namespace>) -> NamespaceFact {
    let ours = |entry: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry| {
        entry.manager.as_deref() == Some(REVISION_MANAGER)
    };
    NamespaceFact {
        name: object.name_any(),
        resource_version: object.resource_version().unwrap_or_default(),
        labels: object.labels().clone(),
        labelled_by: object.annotations().get(labels::LABELLED_BY).cloned(),
        our_revision: object.managed_fields().iter().any(ours),
        terminating: object.metadata.deletion_timestamp.is_some(),
        restart_word: object.annotations().get(labels::RESTART_UNINJECTED).map(|said| Word::parse(said)),
        labelled_at: membership::labelled_at(&object.metadata),
    }
}

async fn pods(client: &Client, mesh: &str) -> Result<Vec<PodFact>, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    // A pod that is over has no sidecar any more, whatever its labels say.
    let running = ListParams::default()
        .labels(&format!("{}={mesh},{}", labels::MESH, labels::REVISION))
        .fields("status.phase!=Succeeded,status.phase!=Failed");
    let fact = |pod: &PartialObjectMeta<Pod>| {
        Some(PodFact {
            namespace: pod.namespace()?,
            name: pod.name_any(),
            revision: pod.labels().get(labels::REVISION)?.clone(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        })
    };
    let mut pods: Vec<_> = api.list_metadata(&running).await?.iter().filter_map(fact).collect();
    pods.sort();
    Ok(pods)
}

/// Pods without a sidecar that nobody asked to be without: the webhook leaves a word on those that it skips, and is not
/// even asked about those that opted out by label.
async fn bare(client: &Client) -> Result<Vec<BarePod>, kube::Error> {
    let api: Api<Pod> = Api::all(client.clone());
    // From the API server's cache: it is every pod that has nothing to do with the mesh, and a second ago is fine.
    let running = ListParams::default()
        .labels(&format!("!{},{}!=false", labels::MESH, labels::INJECT))
        .fields("status.phase!=Succeeded,status.phase!=Failed")
        .match_any();
    let list = api.list_metadata(&running).await?;
    let silent = list.iter().filter(|pod| {
        let annotations = pod.annotations();
        pod.metadata.deletion_timestamp.is_none()
            && !annotations.contains_key(labels::INJECTION)
            && !annotations.contains_key("kubernetes.io/config.mirror")
    });
    let fact = |pod: &PartialObjectMeta<Pod>| {
        Some(BarePod {
            namespace: pod.namespace()?,
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            made: pod.creation_timestamp().map(|time| time.0),
        })
    };
    let mut bare: Vec<_> = silent.filter_map(fact).collect();
    bare.sort();
    Ok(bare)
}

async fn deployments(
    client: &Client,
    namespace: &str,
    ours: &ListParams,
) -> Result<BTreeMap<String, DeploymentFact>, kube::Error> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    Ok(api.list(ours).await?.iter().map(|deployment| (deployment.name_any(), fact(deployment))).collect())
}

/// How far a Deployment is, as `kubectl rollout status` judges it.
fn fact(deployment: &Deployment) -> DeploymentFact {
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation;
    let updated = status.updated_replicas.unwrap_or(0).min(status.ready_replicas.unwrap_or(0));
    DeploymentFact {
        version: deployment.labels().get(labels::VERSION).cloned().unwrap_or_default(),
        wanted: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        ready: if seen { updated } else { 0 },
        available: status.available_replicas.unwrap_or(0) > 0,
    }
}

async fn trust_bundle(client: &Client, namespace: &str) -> Result<Option<String>, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let map = api.get_opt(labels::TRUST_BUNDLE).await?;
    let bundle = map.and_then(|map| map.data).and_then(|mut data| data.remove(labels::TRUST_BUNDLE_KEY));
    Ok(bundle.filter(|bundle| bundle.contains("BEGIN CERTIFICATE")))
}

async fn server(client: &Client) -> Result<Server, kube::Error> {
    let admission = async {
        let resources = client.list_api_group_resources("admissionregistration.k8s.io/v1").await?;
        let fences = resources.resources.iter().any(|resource| resource.kind == "ValidatingAdmissionPolicy");
        Ok(if fences { MatchConditions::Served } else { MatchConditions::Missing })
    };
    let (budgets, conditions) = futures::try_join!(budget_api(client), admission)?;
    Ok(Server { budgets, conditions })
}

/// Which API for PodDisruptionBudgets the server has.
///
/// # Errors
/// When the API server cannot be asked.
pub async fn budget_api(client: &Client) -> Result<BudgetApi, kube::Error> {
    let groups = client.list_api_groups().await?;
    let policy = groups.groups.iter().find(|group| group.name == "policy");
    let v1 = policy.is_some_and(|group| group.versions.iter().any(|version| version.version == "v1"));
    Ok(if v1 { BudgetApi::V1 } else { BudgetApi::V1beta1 })
}
