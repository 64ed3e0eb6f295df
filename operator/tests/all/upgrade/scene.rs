//! One mesh, its namespaces and Deployments, and who plays injector and kubelet.

use std::collections::BTreeMap;

use crds::mesh_upgrade::{MeshUpgradeStatus, UpgradePhase};
use crds::{MeshConfig, MeshUpgrade, fleet::ProxyReport, labels};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client, ResourceExt};
use operator::context::Context;
use operator::fleet::FleetView;
use operator::upgrade::watches::Watches;
use operator::upgrade::{self, Sidecars};
use serde_json::{Value, json};

use crate::cluster::{
    OPERATOR_USER, context, control_plane_namespace, make_pods_ready, make_ready, namespace, until,
    with_operator,
};

/// Every sidecar is connected and in sync.
pub struct AllInSync(pub Client);

impl Sidecars for AllInSync {
    fn gather<'a>(&'a self, _: &'a Context, mesh: &'a MeshConfig) -> BoxFuture<'a, Option<FleetView>> {
        Box::pin(async move {
            let pods: Api<Pod> = Api::all(self.0.clone());
            let selector = format!("{}={},{}", labels::MESH, mesh.name_any(), labels::REVISION);
            let mut view = FleetView::default();
            view.replicas.insert("controller".to_owned(), mesh.spec.version.clone());
            for pod in pods.list(&ListParams::default().labels(&selector)).await.ok()? {
                let (namespace, name) = (pod.namespace()?, pod.name_any());
                let report = ProxyReport {
                    namespace: namespace.clone(),
                    pod: name.clone(),
                    uid: pod.uid()?,
                    version: pod.labels().get(labels::REVISION)?.clone(),
                    envoy: "1.39.3".to_owned(),
                    connected_since: "2026-01-01T00:00:00Z".to_owned(),
                    in_sync: true,
                    rejected: Vec::new(),
                    rejected_more: 0,
                };
                view.proxies.insert((namespace, name), report);
            }
            Some(view)
        })
    }
}

/// One mesh of a test's own, on 0.1.0.
pub struct Scene {
    pub client: Client,
    pub ctx: std::sync::Arc<Context>,
    pub mesh: String,
    pub system: String,
    pub namespaces: Vec<String>,
    pub watches: Watches,
}

impl Scene {
    /// Installs 0.1.0 for new namespaces of these names (prefixed); names are new at each run, because namespaces take
    /// their time to go.
    pub async fn new(test: &str, names: &[&str]) -> Self {
        let client = with_operator().await;
        let ctx = context(crate::cluster::client(Some(OPERATOR_USER)).await, None);
        let mesh = format!("{test}-{}", k8s_openapi::jiff::Timestamp::now().as_millisecond());
        let system = format!("{mesh}-system");
        let namespaces: Vec<_> = names.iter().map(|name| format!("{mesh}-{name}")).collect();
        control_plane_namespace(&client, &system).await;
        for name in &namespaces {
            namespace(&client, name).await;
        }
        let scene = Self { client, ctx, mesh, system, namespaces, watches: Watches::default() };
        scene.install().await;
        scene
    }

    pub async fn install(&self) {
        let spec = json!({
            "version": "0.1.0", "namespace": self.system, "watchedNamespaces": {"names": self.namespaces},
            "controlPlane": {"replicas": 1},
        });
        let mesh = MeshConfig::new(&self.mesh, serde_json::from_value(spec).unwrap());
        Api::all(self.client.clone()).create(&PostParams::default(), &mesh).await.unwrap();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.system);
        let root = until("the root Secret", || async {
            secrets.get(labels::ROOT_SECRET).await.map_err(|error| error.to_string())
        })
        .await;
        let root = String::from_utf8(root.data.unwrap()["tls.crt"].0.clone()).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.system);
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": labels::TRUST_BUNDLE},
            "data": {labels::TRUST_BUNDLE_KEY: root},
        });
        let apply = PatchParams::apply("controller").force();
        maps.patch(labels::TRUST_BUNDLE, &apply, &Patch::Apply(map)).await.unwrap();
        until("0.1.0 to be in effect", || async {
            make_pods_ready(&self.client, &self.system).await;
            let is = self.effective().await;
            if is == "0.1.0" { Ok(()) } else { Err(format!("{is:?}")) }
        })
        .await;
        for namespace in &self.namespaces {
            self.wait_revision(namespace, "0.1.0").await;
        }
    }

    pub async fn get_mesh(&self) -> MeshConfig {
        Api::<MeshConfig>::all(self.client.clone()).get(&self.mesh).await.unwrap()
    }

    pub async fn effective(&self) -> String {
        self.get_mesh().await.status.and_then(|status| status.version).unwrap_or_default().effective
    }

    pub async fn revision(&self, namespace: &str) -> Option<String> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.get(namespace).await.unwrap().labels().get(labels::REVISION).cloned()
    }

    pub async fn wait_revision(&self, namespace: &str, revision: &str) {
        until(&format!("{namespace} on {revision}"), || async {
            let is = self.revision(namespace).await;
            if is.as_deref() == Some(revision) { Ok(()) } else { Err(format!("{is:?}")) }
        })
        .await;
    }

    /// A Deployment whose pods "carry" a sidecar; the real webhook, which nobody answers here, is not to see them.
    pub async fn deployment(&self, namespace: &str, name: &str, replicas: i32) {
        let containers =
            json!([{"name": "app", "image": "app"}, {"name": labels::PROXY_CONTAINER, "image": "proxy"}]);
        self.deployment_of(namespace, name, replicas, (&json!({}), &containers)).await;
    }

    /// A Deployment whose pods have two slots, as an injector of 0.1.0 wrote them in this format.
    pub async fn slotted(&self, namespace: &str, name: &str, replicas: i32, format: &str) {
        let annotations = json!({labels::POD_FORMAT: format, labels::LIVE_SLOT: "a"});
        let env = json!([{"name": "MESHWRIGHT_REVISION", "value": "0.1.0"}]);
        let containers = json!([
            {"name": "app", "image": "app"},
            {"name": labels::PROXY_CONTAINER, "image": "proxy:0.1.0", "env": env},
            {"name": labels::PROXY_CONTAINER_B, "image": "proxy:0.1.0"},
        ]);
        self.deployment_of(namespace, name, replicas, (&annotations, &containers)).await;
    }

    async fn deployment_of(
        &self,
        namespace: &str,
        name: &str,
        replicas: i32,
        (annotations, containers): (&Value, &Value),
    ) {
        let labels = json!({"app": name, labels::INJECT: "false", labels::MESH: self.mesh});
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": labels, "annotations": annotations}, "spec": {"containers": containers},
                },
            },
        }))
        .unwrap();
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &deployment).await.unwrap();
        until(&format!("{replicas} ready pods of {name}"), || async {
            self.play().await;
            let status = api.get_status(name).await.unwrap().status.unwrap_or_default();
            if status.ready_replicas == Some(replicas) { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }

    pub async fn budget(&self, namespace: &str, name: &str, least: i32) {
        let groups = self.client.list_api_groups().await.unwrap();
        let policy = groups.groups.iter().find(|group| group.name == "policy").unwrap();
        let v1 = policy.versions.iter().any(|version| version.version == "v1");
        let gvk = GroupVersionKind::gvk("policy", if v1 { "v1" } else { "v1beta1" }, "PodDisruptionBudget");
        let resource = ApiResource::from_gvk(&gvk);
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), namespace, &resource);
        let spec = json!({"minAvailable": least, "selector": {"matchLabels": {"app": name}}});
        let budget = DynamicObject::new(name, &resource).data(json!({"spec": spec}));
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&budget)).await.unwrap();
        until("the budget's controller", || async {
            let budget = api.get(name).await.unwrap();
            let seen = budget.data["status"]["observedGeneration"].as_i64() == budget.metadata.generation;
            if seen { Ok(()) } else { Err(budget.data.to_string()) }
        })
        .await;
    }

    pub async fn pods(&self, namespace: &str) -> Vec<Pod> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Injector and kubelet.
    pub async fn play(&self) {
        make_pods_ready(&self.client, &self.system).await;
        for namespace in &self.namespaces {
            let revision = self.revision(namespace).await;
            let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
            for pod in self.pods(namespace).await {
                if !pod.labels().contains_key(labels::REVISION) {
                    let patch = Patch::Merge(json!({"metadata": {"labels": {labels::REVISION: revision}}}));
                    // One that went away meanwhile needs nothing.
                    if api.patch(&pod.name_any(), &PatchParams::default(), &patch).await.is_err() {
                        continue;
                    }
                }
                // Only those that an injector has seen: another may have been made since.
                make_ready(&api, &pod.name_any()).await;
            }
        }
    }

    pub async fn want(&self, version: &str) {
        let patch = Patch::Merge(json!({"spec": {"version": version}}));
        let api: Api<MeshConfig> = Api::all(self.client.clone());
        api.patch(&self.mesh, &PatchParams::default(), &patch).await.unwrap();
    }

    pub fn record_name(&self) -> String {
        upgrades::records::name(&self.mesh, "0.1.0", "0.2.0")
    }

    /// The records of this mesh, the newest last.
    pub async fn records(&self) -> Vec<MeshUpgrade> {
        let api: Api<MeshUpgrade> = Api::all(self.client.clone());
        let mut records = api.list(&ListParams::default()).await.unwrap().items;
        records.retain(|record| record.spec.mesh == self.mesh);
        records
            .sort_by_key(|record| (record.metadata.creation_timestamp.clone().unwrap().0, record.name_any()));
        records
    }

    /// What the newest record says.
    pub async fn status(&self) -> MeshUpgradeStatus {
        self.records().await.pop().and_then(|record| record.status).unwrap_or_default()
    }

    pub async fn pass(&self) {
        let mesh = self.get_mesh().await;
        let sidecars = AllInSync(self.client.clone());
        if let Err(error) = upgrade::pass(&self.ctx, &sidecars, &self.watches, &mesh).await {
            panic!("{}", runtime::logging::chain(&error));
        }
    }

    /// Passes, injector and kubelet in turn, until the record says so; after each, `look` may object.
    pub async fn run(&self, phase: UpgradePhase, look: impl AsyncFn(&Self)) {
        until(&format!("phase {phase:?}"), || async {
            self.pass().await;
            look(self).await;
            self.play().await;
            let status = self.status().await;
            if status.phase == Some(phase) { Ok(()) } else { Err(format!("{status:#?}")) }
        })
        .await;
    }

    /// Ready pods per release of one app.
    pub async fn ready(&self, namespace: &str, app: &str) -> BTreeMap<String, usize> {
        let mut ready = BTreeMap::new();
        for pod in self.pods(namespace).await {
            let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
            let is = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            if is
                && pod.metadata.deletion_timestamp.is_none()
                && pod.labels().get("app").is_some_and(|l| l == app)
            {
                *ready.entry(pod.labels()[labels::REVISION].clone()).or_default() += 1;
            }
        }
        ready
    }

    pub async fn remove(self) {
        let meshes: Api<MeshConfig> = Api::all(self.client.clone());
        meshes.delete(&self.mesh, &DeleteParams::default()).await.unwrap();
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        for name in self.namespaces.iter().chain([&self.system]) {
            namespaces.delete(name, &DeleteParams::default()).await.unwrap();
        }
    }
}
