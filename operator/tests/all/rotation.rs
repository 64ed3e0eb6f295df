//! Rotation of the root with a real API server, the real operator and a real controller. There is no kubelet in this
//! tier: the holders of certificates are the clients that daemons use, with tokens of pods that are only objects, and
//! a mounted trust bundle that never changes. The proxy's own tests rotate with real Envoys under load.

use std::net::SocketAddr;
use std::sync::Arc;

use controller::daemon::{Daemon, Options};
use crds::mesh_config::{CertificateAuthorityStatus, RotationStep};
use crds::{MeshConfig, labels};
use futures::FutureExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret, ServiceAccount};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use runtime::certificates::{self, Settings, TokenSource, TrustSource};
use runtime::https::Peer;
use runtime::shutdown::Shutdown;
use serde_json::json;

use crate::cluster::{client, default_account, make_pods_ready, namespace, until, with_operator};

const MESH: &str = "t-rotate";
const SYSTEM: &str = "meshwright-system";
const SHOP: &str = "t-rotate-shop";
const CONTROLLER: &str = "meshwright-controller-0-1-0";

struct Scene {
    client: Client,
    meshes: Api<MeshConfig>,
    stop: Shutdown,
    folder: tempfile::TempDir,
}

impl Scene {
    /// A mesh whose controller is in this process, on the port where the operator asks.
    async fn start() -> Self {
        let client = with_operator().await;
        namespace(&client, SHOP).await;
        let meshes: Api<MeshConfig> = Api::all(client.clone());
        let _ = meshes.delete(MESH, &DeleteParams::default()).await;
        let scene = Self { client, meshes, stop: Shutdown::default(), folder: tempfile::tempdir().unwrap() };
        scene.collected().await;
        let spec = json!({
            "version": "0.1.0", "namespace": SYSTEM, "trustDomain": "books.example", "watchedNamespaces": {"names": [SHOP]},
            "controlPlane": {"replicas": 1},
        });
        let mesh = MeshConfig::new(MESH, serde_json::from_value(spec).unwrap());
        scene.meshes.create(&PostParams::default(), &mesh).await.unwrap();
        scene.controller().await;
        scene
    }

    async fn collected(&self) {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SYSTEM);
        let _ = maps.delete(labels::TRUST_BUNDLE, &DeleteParams::default()).await;
        until("an earlier run's roots to be gone", || async {
            if self.meshes.get_opt(MESH).await.map_err(|error| error.to_string())?.is_some() {
                return Err("the MeshConfig is still there".to_owned());
            }
            // They outlive their MeshConfig.
            let mut left = 0;
            for name in [labels::ROOT_SECRET, labels::OTHER_ROOT_SECRET] {
                let gone = secrets.delete(name, &DeleteParams::default()).await;
                left += usize::from(!matches!(gone, Err(kube::Error::Api(status)) if status.is_not_found()));
            }
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
        .await;
    }

    async fn controller(&self) {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SYSTEM);
        until("the controller's service account", || async {
            accounts.get(CONTROLLER).await.map_err(|error| error.to_string())
        })
        .await;
        let options = Options {
            mesh: MESH.to_owned(),
            namespace: SYSTEM.to_owned(),
            revision: "0.1.0".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            replica: "in-process".to_owned(),
            most_streams: 1000,
            stream_age: std::time::Duration::from_secs(3600),
        };
        let user = format!("system:serviceaccount:{SYSTEM}:{CONTROLLER}");
        let daemon = Daemon::start(&client(Some(&user)).await, &options, &self.stop).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], labels::CONTROLLER_PORT));
        let listener = tokio::net::TcpListener::bind(address).await.expect("port 15012 is free");
        let admin = SocketAddr::from(([127, 0, 0, 1], 0));
        tokio::spawn(daemon.serve(listener, admin, self.stop.clone()));
    }

    /// Plays the kubelet: pods of the control plane are ready, and the controller's is this process.
    async fn pods_ready(&self) {
        make_pods_ready(&self.client, SYSTEM).await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SYSTEM);
        let ours = ListParams::default().labels(&format!(
            "{}=controller,{}={MESH}",
            labels::COMPONENT,
            labels::MESH
        ));
        for pod in pods.list(&ours).await.unwrap() {
            let here = json!({"status": {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}});
            let _ = pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(here)).await;
        }
    }

    async fn sidecar(&self, name: &str) -> Pod {
        default_account(&self.client, SHOP).await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), SHOP);
        let _ =
            pods.delete(name, &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await;
        // Nobody answers the injection webhook in this tier.
        let labels = json!({labels::MESH: MESH, labels::REVISION: "0.1.0", labels::INJECT: "false"});
        let pod = json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [{"name": labels::PROXY_CONTAINER, "image": "none"}]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        until("the pod", || async {
            pods.create(&PostParams::default(), &pod).await.map_err(|error| error.to_string())
        })
        .await;
        let running = json!({"status": {"phase": "Running"}});
        pods.patch_status(name, &PatchParams::default(), &Patch::Merge(running)).await.unwrap()
    }

    /// A holder of a certificate: the client of the daemons, for the token of a pod.
    fn hold(&self, pod: &Pod) {
        let (namespace, account) =
            (pod.namespace().unwrap(), pod.spec.as_ref().unwrap().service_account_name.clone().unwrap());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let bound = BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
        };
        let spec = TokenRequestSpec {
            audiences: vec![labels::audience(MESH)],
            expiration_seconds: Some(3600),
            bound_object_ref: Some(bound),
        };
        let ask = move || {
            let (accounts, account, spec) = (accounts.clone(), account.clone(), spec.clone());
            async move {
                let request = TokenRequest { spec, ..Default::default() };
                let answer =
                    accounts.create_token_request(&account, &PostParams::default(), &request).await?;
                answer.status.map(|status| status.token).ok_or_else(|| anyhow::anyhow!("no token"))
            }
            .boxed()
        };
        let holder = certificates::Client::new(Settings {
            controller: Peer {
                address: format!("127.0.0.1:{}", labels::CONTROLLER_PORT),
                server_name: format!("{CONTROLLER}.{SYSTEM}.svc"),
            },
            token: TokenSource::Ask(Arc::new(ask)),
            trust: TrustSource::File(self.folder.path().join("ca.crt")),
        });
        let stop = self.stop.stopping.clone();
        tokio::spawn(async move { holder.keep(stop, |_| {}).await });
    }

    async fn mount_the_bundle(&self) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SHOP);
        let bundle = until("the copy of the trust bundle", || async {
            self.pods_ready().await;
            let map = maps.get(labels::TRUST_BUNDLE).await.map_err(|error| error.to_string())?;
            Ok(map.data.unwrap_or_default()[labels::TRUST_BUNDLE_KEY].clone())
        })
        .await;
        std::fs::write(self.folder.path().join("ca.crt"), bundle).unwrap();
    }

    async fn want(&self, generation: i64) {
        let patch = json!({"spec": {"certificateAuthority": {"rootGeneration": generation}}});
        self.meshes.patch(MESH, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Waits for a step of a generation.
    async fn at(&self, step: RotationStep, generation: i64) -> CertificateAuthorityStatus {
        until(&format!("{step:?} with root {generation}"), || async {
            self.pods_ready().await;
            let mesh = self.meshes.get(MESH).await.map_err(|error| error.to_string())?;
            let status = mesh.status.unwrap_or_default();
            let root = status.certificate_authority.ok_or_else(|| format!("{:?}", status.conditions))?;
            if (root.step, root.generation) == (step, generation) {
                Ok(root)
            } else {
                Err(format!("{root:?}"))
            }
        })
        .await
    }

    async fn has_secret(&self, name: &str) -> bool {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), SYSTEM);
        secrets.get_opt(name).await.unwrap().is_some()
    }

    /// Certificates in the copies that sidecars mount and in what the API server verifies the webhook with.
    async fn published(&self) -> (usize, usize) {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), SHOP);
        let copy = maps.get(labels::TRUST_BUNDLE).await.unwrap().data.unwrap_or_default();
        let webhooks: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let webhook = webhooks.get("meshwright-injector-t-rotate-0-1-0").await.unwrap();
        let bundle = webhook.webhooks.unwrap_or_default().remove(0).client_config.ca_bundle.unwrap();
        let count = |text: &str| text.matches("BEGIN CERTIFICATE").count();
        (count(&copy[labels::TRUST_BUNDLE_KEY]), count(&String::from_utf8(bundle.0).unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_root_is_rotated_in_steps_that_wait_for_every_holder_and_can_be_aborted() {
    let scene = Scene::start().await;
    scene.mount_the_bundle().await;
    let first = scene.at(RotationStep::Stable, 1).await;
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), SYSTEM);
    let injectors =
        ListParams::default().labels(&format!("{}=injector,{}={MESH}", labels::COMPONENT, labels::MESH));
    let injectors = until("the injector's pod", || async {
        let pods = pods.list(&injectors).await.map_err(|error| error.to_string())?.items;
        if pods.is_empty() { Err("none yet".to_owned()) } else { Ok(pods) }
    })
    .await;
    for injector in injectors {
        scene.hold(&injector);
    }
    scene.hold(&scene.sidecar("buyer-1").await);
    scene.hold(&scene.sidecar("buyer-2").await);

    scene.want(2).await;
    let both = scene.at(RotationStep::TrustingBoth, 1).await;
    assert_eq!((both.trusted.len(), &both.signing), (2, &first.signing));
    let issuing = scene.at(RotationStep::Issuing, 2).await;
    assert_ne!(issuing.signing, first.signing);
    assert_eq!(scene.published().await, (2, 2), "both are trusted until everybody has a new certificate");
    scene.at(RotationStep::Dropping, 2).await;
    assert!(
        scene.has_secret(labels::ROOT_SECRET).await,
        "the way back is open until nobody trusts the old root"
    );
    let second = scene.at(RotationStep::Stable, 2).await;
    assert_eq!((second.trusted.len(), &second.trusted[0]), (1, &second.signing));
    assert!(
        !scene.has_secret(labels::ROOT_SECRET).await && scene.has_secret(labels::OTHER_ROOT_SECRET).await
    );
    assert_eq!(scene.published().await, (1, 1));

    // A sidecar that says nothing holds the next one, by name; and the edit is taken back.
    scene.sidecar("silent").await;
    scene.want(3).await;
    until("the silent sidecar to be named", || async {
        let root = scene.at(RotationStep::TrustingBoth, 2).await;
        let named = root.message.contains("t-rotate-shop/silent has not said what it holds");
        if named { Ok(()) } else { Err(root.message) }
    })
    .await;
    scene.want(2).await;
    let sidecars: Api<Pod> = Api::namespaced(scene.client.clone(), SHOP);
    let now = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
    sidecars.delete("silent", &now).await.unwrap();
    let end = scene.at(RotationStep::Stable, 2).await;
    assert_eq!(end.signing, second.signing);
    assert!(!scene.has_secret(labels::ROOT_SECRET).await, "the root that was not wanted is gone");

    let events: Api<Event> = Api::namespaced(scene.client.clone(), "default");
    let about = ListParams::default().fields(&format!("involvedObject.name={MESH}"));
    let told: Vec<_> =
        events.list(&about).await.unwrap().iter().filter_map(|event| event.reason.clone()).collect();
    for step in ["Preparing", "TrustingBoth", "Issuing", "Dropping"] {
        assert!(told.iter().any(|reason| reason == step), "{step} is told: {told:?}");
    }
    scene.meshes.delete(MESH, &DeleteParams::default()).await.unwrap();
    scene.stop.begin();
}
