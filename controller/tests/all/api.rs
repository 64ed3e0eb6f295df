//! The daemon against a real API server, with exactly the rights that `config/rbac` gives a controller.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use controller::daemon::{Daemon, Options, empty_mesh};
use controller::snapshots::{Feed, PodRef};
use crds::labels;
use futures::FutureExt;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, ServiceAccount};
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, Client, Config, ResourceExt};
use mesh::ResourceType;
use rcgen::{CertificateParams, KeyPair, SanType};
use runtime::certificates::{Client as Certificates, Identity, Settings, TokenSource, TrustSource};
use runtime::https::{self, Limits, Peer};
use runtime::shutdown::Shutdown;
use serde_json::{Value, json};

use crate::support::{options, root, until, until_true};

const VARIABLE: &str = "MESHWRIGHT_TEST_KUBECONFIG";
const SERVICE: &str = "meshwright-controller-0-1-0";

fn kubeconfig() -> PathBuf {
    let path = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!(
            "{VARIABLE} is not set. This test needs a real API server: run `tests/cluster/cluster up --tier api \
             --name NAME`, then set {VARIABLE} to the kubeconfig that `tests/cluster/cluster env --name NAME` prints"
        )
    });
    PathBuf::from(path)
}

async fn client(user: Option<&str>) -> Client {
    runtime::install_default();
    let file = Kubeconfig::read_from(kubeconfig()).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    Client::try_from(config).unwrap()
}

fn kubectl(args: &[&str]) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("tests/cluster/cluster"));
    command.current_dir(root).env("KUBECONFIG", kubeconfig()).args(["kubectl", "--"]).args(args);
    let output = command.output().expect("tests/cluster/cluster runs");
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mesh of its own in the cluster, and a controller for it in this process.
struct World {
    admin: Client,
    mesh: String,
    /// Namespace of the control plane.
    system: String,
    /// A namespace of the mesh.
    shop: String,
    /// A namespace that is not.
    outside: String,
    trust: String,
    address: SocketAddr,
    daemon: controller::snapshots::Snapshots,
    shutdown: Shutdown,
}

impl World {
    async fn start(name: &str) -> Self {
        static INSTALLED: std::sync::Once = std::sync::Once::new();
        INSTALLED.call_once_force(|_| {
            kubectl(&["apply", "-k", "config/crd"]);
            kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"]);
            kubectl(&["apply", "-f", "config/rbac/controller.yaml"]);
        });
        let admin = client(None).await;
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let mesh = format!("{name}-{}", since.as_millis());
        let (system, shop, outside) =
            (format!("{mesh}-system"), format!("{mesh}-shop"), format!("{mesh}-outside"));
        let (trust, key) = root();
        let world = Self {
            admin,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            daemon: controller::snapshots::Snapshots::start(
                empty_mesh(&options_of(&mesh, &system)).unwrap(),
                Default::default(),
            )
            .unwrap(),
            shutdown: Shutdown::default(),
            mesh,
            system,
            shop,
            outside,
            trust,
        };
        world.prepare(&key).await;
        world.run().await
    }

    async fn prepare(&self, key: &str) {
        for namespace in [&self.system, &self.outside] {
            self.create("", "v1", "Namespace", json!({"metadata": {"name": namespace}})).await;
        }
        self.create("", "v1", "Node", json!({"metadata": {"name": self.mesh}})).await;
        let labels = json!({labels::MESH: self.mesh});
        self.create("", "v1", "Namespace", json!({"metadata": {"name": self.shop, "labels": labels}})).await;
        let secret = json!({
            "metadata": {"name": labels::ROOT_SECRET, "namespace": self.system}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": self.trust, "tls.key": key},
        });
        self.create("", "v1", "Secret", secret).await;
        self.account(&self.system, SERVICE).await;
        let subjects = json!([{"kind": "ServiceAccount", "name": SERVICE, "namespace": self.system}]);
        let role = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name});
        let group = "rbac.authorization.k8s.io";
        let wide = json!({"metadata": {"name": self.mesh}, "subjects": subjects, "roleRef": role("meshwright-controller")});
        self.create(group, "v1", "ClusterRoleBinding", wide).await;
        let narrow = json!({
            "metadata": {"name": SERVICE, "namespace": self.system}, "subjects": subjects,
            "roleRef": role("meshwright-controller-namespace"),
        });
        self.create(group, "v1", "RoleBinding", narrow).await;
    }

    async fn run(mut self) -> Self {
        let user = format!("system:serviceaccount:{}:{SERVICE}", self.system);
        let options = options_of(&self.mesh, &self.system);
        let daemon = Daemon::start(&client(Some(&user)).await, &options, &self.shutdown).unwrap();
        let (snapshots, readiness) = (daemon.snapshots.clone(), daemon.readiness.clone());
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        tokio::spawn(daemon.serve(listener, SocketAddr::from(([127, 0, 0, 1], 0)), self.shutdown.clone()));
        until_true("it says that it waits for the MeshConfig alone", || {
            readiness.missing().iter().any(|part| part.reason == "not listed yet: MeshConfig")
        })
        .await;
        assert!(!snapshots.synced());
        let spec = json!({"version": "0.1.0", "namespace": self.system});
        self.create(
            "meshwright.io",
            "v1alpha1",
            "MeshConfig",
            json!({"metadata": {"name": self.mesh}, "spec": spec}),
        )
        .await;
        until_true("it is ready", || readiness.missing().is_empty()).await;
        self.daemon = snapshots;
        self
    }

    /// Creates an object of any kind.
    async fn create(&self, group: &str, version: &str, kind: &str, mut object: Value) {
        let resource = kube::api::ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        object["apiVersion"] = resource.api_version.clone().into();
        object["kind"] = kind.into();
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(self.admin.clone(), &namespace, &resource),
            None => Api::all_with(self.admin.clone(), &resource),
        };
        let created = api.create(&PostParams::default(), &object).await;
        created.unwrap_or_else(|error| panic!("cannot create {kind} {}: {error}", object.name_any()));
    }

    /// A service account. Before Kubernetes 1.24 pods may use it only once the controller manager has made its token's
    /// Secret; from then on there is none.
    async fn account(&self, namespace: &str, name: &str) {
        self.create("", "v1", "ServiceAccount", json!({"metadata": {"name": name, "namespace": namespace}}))
            .await;
        let minor = self.admin.apiserver_version().await.unwrap().minor;
        if minor.trim_end_matches('+').parse::<u32>().unwrap() >= 24 {
            return;
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), namespace);
        until("the service account has its token", || {
            let api = api.clone();
            async move { api.get(name).await.ok()?.secrets }
        })
        .await;
    }

    async fn pod(&self, namespace: &str, name: &str, account: &str, sidecar: bool) -> Pod {
        let container = if sidecar { labels::PROXY_CONTAINER } else { "app" };
        let labels = json!({"app": account, labels::MESH: self.mesh, labels::REVISION: "0.1.0"});
        let pod = json!({
            "metadata": {"name": name, "namespace": namespace, "labels": labels},
            // Kubernetes lists a pod as an endpoint only when its node exists.
            "spec": {"serviceAccountName": account, "nodeName": self.mesh,
                     "containers": [{"name": container, "image": "none"}]},
        });
        let api: Api<Pod> = Api::namespaced(self.admin.clone(), namespace);
        api.create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    /// A token as the kubelet would project it.
    async fn token(&self, namespace: &str, account: &str, audience: &str, pod: Option<&Pod>) -> String {
        let spec = TokenRequestSpec {
            audiences: vec![audience.to_owned()],
            expiration_seconds: Some(3600),
            bound_object_ref: pod.map(|pod| BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), namespace);
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let answer = api.create_token_request(account, &PostParams::default(), &request).await.unwrap();
        answer.status.unwrap().token
    }

    fn audience(&self) -> String {
        labels::audience(&self.mesh)
    }

    fn peer(&self) -> Peer {
        Peer { address: self.address.to_string(), server_name: format!("{SERVICE}.{}.svc", self.system) }
    }

    /// A certificate, by the client that daemons use.
    async fn certificate(&self, token: String) -> Identity {
        let settings = Settings {
            controller: self.peer(),
            token: TokenSource::Ask(Arc::new(move || {
                let token = token.clone();
                async move { Ok(token) }.boxed()
            })),
            trust: TrustSource::Shared(Arc::new(ArcSwapOption::from_pointee(self.trust.clone()))),
        };
        let client = Certificates::new(settings);
        client.issue().await.unwrap_or_else(|error| panic!("{}", runtime::logging::chain(&error)));
        client.identity()
    }

    /// Status and reason of a refused request.
    async fn refused(&self, token: &str, names: Vec<SanType>) -> (u16, String) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        let csr = params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let request = http::Request::post("/v1/certificates")
            .header("authorization", format!("Bearer {token}"))
            .body(csr.into())
            .unwrap();
        let (status, body) = self.send(&Identity::default(), request).await;
        (status, body["reason"].as_str().unwrap_or_default().to_owned())
    }

    async fn send(
        &self,
        identity: &Identity,
        request: http::Request<http_body_util::Full<bytes::Bytes>>,
    ) -> (u16, Value) {
        identity.roots.set(&self.trust).unwrap();
        let limits = Limits { time: Duration::from_secs(30), body: 1 << 20 };
        let (status, body) =
            https::send(&self.peer(), identity.client_config().unwrap(), request, limits).await.unwrap();
        (status.as_u16(), serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn feed(&self, pod: &Pod) -> Feed {
        let pod = PodRef {
            namespace: self.shop.clone(),
            name: pod.name_any(),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        };
        self.daemon.attach(pod).await.expect("the mesh lives")
    }
}

fn options_of(mesh: &str, namespace: &str) -> Options {
    Options { mesh: mesh.to_owned(), namespace: namespace.to_owned(), ..options() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn identities_are_proved_by_tokens_of_the_cluster() {
    let world = World::start("identity").await;
    let bundles: Api<ConfigMap> = Api::namespaced(world.admin.clone(), &world.system);
    let bundle = bundles.get(labels::TRUST_BUNDLE).await.unwrap();
    assert_eq!(bundle.data.unwrap()[labels::TRUST_BUNDLE_KEY], world.trust);

    world.account(&world.shop, "buyer").await;
    world.account(&world.outside, "buyer").await;
    world.account(&world.system, "meshwright-operator").await;
    let pod = world.pod(&world.shop, "buyer-1", "buyer", true).await;
    let audience = world.audience();
    let token = world.token(&world.shop, "buyer", &audience, Some(&pod)).await;
    let buyer = world.certificate(token.clone()).await;

    // Whoever cannot prove it.
    let unbound = world.token(&world.shop, "buyer", &audience, None).await;
    assert_eq!(world.refused(&unbound, vec![]).await, (401, "TokenNotPodBound".to_owned()));
    let elsewhere = world.token(&world.shop, "buyer", "somebody.else", Some(&pod)).await;
    assert_eq!(world.refused(&elsewhere, vec![]).await, (401, "TokenAudience".to_owned()));
    let foreign = world.pod(&world.outside, "buyer-1", "buyer", false).await;
    let foreign = world.token(&world.outside, "buyer", &audience, Some(&foreign)).await;
    assert_eq!(world.refused(&foreign, vec![]).await, (403, "NamespaceNotInMesh".to_owned()));
    let id = labels::spiffe_id("cluster.local", &world.shop, "bookstore");
    let other = SanType::URI(id.as_str().try_into().unwrap());
    assert_eq!(world.refused(&token, vec![other]).await, (403, "IdentityMismatch".to_owned()));
    let (head, tail) = token.split_at(token.len() - 20);
    let altered = format!("{head}{}", tail.replace(|c: char| c.is_ascii_alphanumeric(), "A"));
    assert_eq!(world.refused(&altered, vec![]).await, (401, "TokenSignature".to_owned()));

    // The state of the fleet is for the operator.
    let fleet = || http::Request::get("/v1/fleet").body(http_body_util::Full::default()).unwrap();
    assert_eq!(world.send(&buyer, fleet()).await.0, 403);
    assert_eq!(world.send(&Identity::default(), fleet()).await.0, 403);
    let pod = world.pod(&world.system, "operator-1", "meshwright-operator", false).await;
    let token = world.token(&world.system, "meshwright-operator", &audience, Some(&pod)).await;
    let operator = world.certificate(token).await;
    let (status, report) = world.send(&operator, fleet()).await;
    assert_eq!((status, &report["synced"], &report["replica"]), (200, &json!(true), &json!("controller-1")));
    world.shutdown.begin();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_cluster_reaches_the_mesh() {
    let world = World::start("objects").await;
    world.account(&world.shop, "buyer").await;
    world.account(&world.shop, "bookstore").await;
    let buyer = world.pod(&world.shop, "buyer-1", "buyer", true).await;
    let store = world.pod(&world.shop, "bookstore-1", "bookstore", true).await;
    let mut feed = world.feed(&buyer).await;
    let name = format!("out|{}|bookstore|80", world.shop);
    let holds = |feed: &Feed, kind| feed.served.borrow().of(kind).get(name.as_str()).cloned();
    assert!(holds(&feed, ResourceType::Cluster).is_none(), "nothing may be called yet");

    // Policies before what they name.
    let account = |name: &str| json!({"kind": "ServiceAccount", "name": name, "namespace": world.shop});
    let target = json!({
        "metadata": {"name": "buy", "namespace": world.shop},
        "spec": {"destination": account("bookstore"), "sources": [account("buyer")],
                 "rules": [{"kind": "HTTPRouteGroup", "name": "books"}]},
    });
    world.create("access.smi-spec.io", "v1alpha3", "TrafficTarget", target).await;
    until_true("the problem names the TrafficTarget", || {
        world
            .daemon
            .problems()
            .iter()
            .any(|problem| problem.kind == "TrafficTarget" && problem.namespace == world.shop)
    })
    .await;
    let group = json!({
        "metadata": {"name": "books", "namespace": world.shop},
        "spec": {"matches": [{"name": "all", "pathRegex": "/.*", "methods": ["GET"]}]},
    });
    world.create("specs.smi-spec.io", "v1alpha4", "HTTPRouteGroup", group).await;
    let service = json!({
        "metadata": {"name": "bookstore", "namespace": world.shop},
        "spec": {"selector": {"app": "bookstore"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    });
    world.create("", "v1", "Service", service).await;
    until_true("the bookstore may be called", || holds(&feed, ResourceType::Cluster).is_some()).await;
    let empty = holds(&feed, ResourceType::Endpoint).expect("an assignment without endpoints");
    // Told a moment after what is served.
    until_true("nothing is wrong any more", || {
        world.daemon.problems().iter().all(|problem| problem.namespace != world.shop)
    })
    .await;

    // The pod becomes ready, as a kubelet would say; Kubernetes itself makes the slice (v1beta1 in 1.20).
    let status = json!({"status": {
        "phase": "Running", "podIP": "10.8.0.1", "podIPs": [{"ip": "10.8.0.1"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }});
    let pods: Api<Pod> = Api::namespaced(world.admin.clone(), &world.shop);
    pods.patch_status(&store.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    until("the endpoint arrives", || {
        let now = holds(&feed, ResourceType::Endpoint);
        std::future::ready(now.filter(|now| now.version != empty.version))
    })
    .await;

    // The policy goes, and with it the way.
    let targets: Api<crds::TrafficTarget> = Api::namespaced(world.admin.clone(), &world.shop);
    targets.delete("buy", &Default::default()).await.unwrap();
    until_true("nothing may be called any more", || holds(&feed, ResourceType::Cluster).is_none()).await;

    // A deleted MeshConfig changes nothing; it is a problem.
    feed.served.mark_unchanged();
    let configs: Api<crds::MeshConfig> = Api::all(world.admin.clone());
    configs.delete(&world.mesh, &Default::default()).await.unwrap();
    until_true("the problem names the MeshConfig", || {
        world.daemon.problems().iter().any(|problem| problem.kind == "MeshConfig")
    })
    .await;
    assert!(!feed.served.has_changed().unwrap());
    assert_eq!(world.daemon.settings().mesh, world.mesh);
    world.shutdown.begin();
}
