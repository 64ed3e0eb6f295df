//! The injector as a process, between a real API server (tests/cluster, tier api) and a controller that this file plays.
//!
//! ```text
//!  Deployment ─▶ controller-manager ─▶ API server ──webhooks of the operator, as URLs──▶ meshwright-injector
//!                                          ▲ its own service account's rights ────────────────┘  │ certificate
//!                                                                                          this file
//! ```
//! No operator runs: the configurations are what it would have written. The tier has no network for Services, so each
//! webhook's Service is replaced by the process's address; nothing else is changed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use crds::{MeshConfig, labels};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};
use operator::control_plane::build::{self, Blueprint};
use operator::control_plane::facts::Server;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    SanType,
};
use runtime::shutdown::Shutdown;
use runtime::tls::{self, Certificate, ClientAuth};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const VARIABLE: &str = "MESHWRIGHT_TEST_KUBECONFIG";
/// Much longer than anything takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(300);
const RELEASE: &str = "0.2.0";

fn kubeconfig() -> PathBuf {
    let path = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!("{VARIABLE} is not set; start a cluster with: tests/cluster/cluster up --tier api --name test")
    });
    PathBuf::from(path)
}

pub fn apply() -> PatchParams {
    PatchParams::apply("test").force()
}

/// Waits until `look` returns something, looking often; fails with what it last said.
pub async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let (start, mut said) = (Instant::now(), String::new());
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) if start.elapsed() > DEADLINE => panic!("gave up waiting for {what}: {why}"),
            Err(why) if why != said => {
                println!("waiting for {what}: {why}");
                said = why;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Each mesh's webhook judges the objects of all meshes: one test after another.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// One mesh of a test's own.
pub struct Scene {
    pub client: Client,
    pub mesh: String,
    pub meshes: Api<MeshConfig>,
    system: String,
    folder: tempfile::TempDir,
    controller: String,
    authority: String,
    injector: Option<Child>,
    /// Where the API server, which has a network of its own, reaches this machine.
    address: std::net::IpAddr,
    webhook: u16,
    admin: u16,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop_injector();
    }
}

impl Scene {
    /// A MeshConfig with a spec, and everything for its injector but the injector.
    pub async fn new(mesh: &str, spec: Value) -> Self {
        let alone = ALONE.lock().await;
        runtime::install_default();
        let client = client().await;
        install_kinds(&client).await;
        let address = own_address().await;
        let (controller, authority) = controller(address).await;
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        std::fs::write(folder.path().join("ca.crt"), &authority).unwrap();
        let scene = Self {
            meshes: Api::all(client.clone()),
            system: format!("{mesh}-system"),
            mesh: mesh.to_owned(),
            address,
            webhook: free_port().await,
            admin: free_port().await,
            client,
            folder,
            controller,
            authority,
            injector: None,
            _alone: alone,
        };
        scene.remove_mesh().await;
        let system = scene.system.clone();
        scene.write(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": system}})).await;
        let mut spec = spec;
        spec["version"] = json!(RELEASE);
        spec["namespace"] = json!(system);
        let config = json!({
            "apiVersion": "meshwright.io/v1alpha1", "kind": "MeshConfig", "metadata": {"name": mesh}, "spec": spec
        });
        scene.write(&config).await;
        scene
    }

    /// Deletes the MeshConfig; what belongs to it is collected.
    pub async fn remove_mesh(&self) {
        // Its own validating webhook may be without an injector.
        let allow = json!({"metadata": {"annotations": {labels::ALLOW_DELETION: "true"}}});
        let _ = self.meshes.patch(&self.mesh, &PatchParams::default(), &Patch::Merge(allow)).await;
        let _ = self.meshes.delete(&self.mesh, &DeleteParams::default()).await;
        let webhooks: Api<k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration> =
            Api::all(self.client.clone());
        until("the webhooks to be collected", || async {
            let name = build::default_injection_name(&self.mesh);
            match webhooks.get_opt(&name).await.map_err(|error| error.to_string())? {
                None => Ok(()),
                Some(_) => Err(format!("{name} is there")),
            }
        })
        .await;
    }

    pub async fn write(&self, object: &Value) {
        write(&self.client, object).await;
    }

    /// Rights and webhooks, as the operator writes them once the injector has answered.
    pub async fn write_children(&self) {
        let mesh = self.meshes.get(&self.mesh).await.unwrap();
        let release = [RELEASE.to_owned()];
        let blueprint = Blueprint {
            mesh: &mesh,
            image_prefix: "meshwright/",
            cluster_domain: "cluster.local",
            revisions: release.clone().into(),
            injecting: release.clone().into(),
            served: release.clone().into(),
            answering: Some(RELEASE.to_owned()),
            validating: Some(RELEASE.to_owned()),
            trust_bundle: Some(&self.authority),
            members: Default::default(),
            server: Server::default(),
            operator: "meshwright-system",
        };
        for child in build::all(&blueprint) {
            let mut child = serde_json::to_value(child).unwrap();
            let kind = child["kind"].as_str().unwrap_or_default();
            if [
                "ServiceAccount",
                "ClusterRoleBinding",
                "MutatingWebhookConfiguration",
                "ValidatingWebhookConfiguration",
            ]
            .contains(&kind)
            {
                for webhook in child.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                    let path = webhook["clientConfig"]["service"]["path"].as_str().unwrap().to_owned();
                    let url = format!("https://{}:{}{path}", self.address, self.webhook);
                    webhook["clientConfig"] =
                        json!({"url": url, "caBundle": webhook["clientConfig"]["caBundle"]});
                }
                self.write(&child).await;
            }
        }
    }

    /// Starts the injector under its own identity; returns when it is ready.
    pub async fn start_injector(&mut self) {
        self.stop_injector();
        let file = |name: &str| self.folder.path().join(name);
        let user = format!("system:serviceaccount:{}:{}", self.system, labels::injector_name(RELEASE));
        impersonating(&user, &file("kubeconfig"));
        let child = Command::new(env!("CARGO_BIN_EXE_meshwright-injector"))
            .env("KUBECONFIG", file("kubeconfig"))
            .env(runtime::logging::FILTER_VARIABLE, "warn")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .args(["--mesh", &self.mesh, "--namespace", &self.system, "--revision", RELEASE])
            .args(["--controller", &self.controller, "--image", "meshwright/proxy:0.2.0"])
            .args(["--native-sidecars", "never"])
            .args(["--listen", &format!("{}:{}", self.address, self.webhook)])
            .args(["--admin", &format!("127.0.0.1:{}", self.admin)])
            .arg("--token")
            .arg(file("token"))
            .arg("--trust")
            .arg(file("ca.crt"))
            .spawn()
            .unwrap();
        self.injector = Some(child);
        until("the injector to be ready", || async {
            let answer = get(self.admin, "/readyz").await.map_err(|error| error.to_string())?;
            if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
        })
        .await;
    }

    /// Waits until the API server has taken the webhooks up: it learns of new ones a moment later.
    pub async fn webhooks_in_force(&self) {
        let name = format!("{}-warm-up", self.mesh);
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {labels::MESH: self.mesh}},
        });
        self.write(&namespace).await;
        let dry = kube::api::PostParams { dry_run: true, ..Default::default() };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &name);
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {"automountServiceAccountToken": false, "containers": [{"name": "app", "image": "none"}]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        until("the injection webhook to be in force", || async {
            let made = pods.create(&dry, &pod).await.map_err(|error| error.to_string())?;
            let containers = made.spec.map_or(0, |spec| spec.containers.len());
            if containers == 2 { Ok(()) } else { Err(format!("{containers} containers")) }
        })
        .await;
        let dry = PatchParams { dry_run: true, ..Default::default() };
        let bad = Patch::Merge(json!({"spec": {"upgrade": {"drainTime": "1s"}}}));
        until("the validating webhook to be in force", || async {
            match self.meshes.patch(&self.mesh, &dry, &bad).await {
                Err(error) if error.to_string().contains("spec.upgrade.drainTime") => Ok(()),
                Err(error) => Err(error.to_string()),
                Ok(_) => Err("it was not asked".to_owned()),
            }
        })
        .await;
        self.remove_namespaces(&[name]).await;
    }

    pub fn stop_injector(&mut self) {
        if let Some(mut child) = self.injector.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub async fn namespace(&self, name: &str, labels: Value) -> Result<(), kube::Error> {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let object = json!({"metadata": {"name": name, "labels": labels}});
        api.create(&Default::default(), &serde_json::from_value(object).unwrap()).await.map(|_| ())
    }

    /// Asks the namespaces to go; this tier takes its time for each.
    pub async fn remove_namespaces(&self, names: &[String]) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        for name in names {
            let _ = api.delete(name, &DeleteParams::background()).await;
        }
    }
}

async fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A port that is free now, of those that the kernel gives to nobody: the injector takes it only later.
async fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = u16::try_from(std::process::id().wrapping_mul(1009) % 16_384).unwrap();
    loop {
        let port = 16_384 + (begin + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_384;
        if TcpListener::bind(("0.0.0.0", port)).await.is_ok() {
            return port;
        }
    }
}

async fn own_address() -> std::net::IpAddr {
    let file = Kubeconfig::read_from(kubeconfig()).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    let (host, port) = (config.cluster_url.host().unwrap(), config.cluster_url.port_u16().unwrap_or(443));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((host, port)).unwrap();
    socket.local_addr().unwrap().ip()
}

async fn client() -> Client {
    let file = Kubeconfig::read_from(kubeconfig()).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    config.read_timeout = Some(DEADLINE);
    Client::try_from(config).unwrap()
}

/// The kubeconfig, acting as another user.
fn impersonating(user: &str, path: &Path) {
    let mut file = Kubeconfig::read_from(kubeconfig()).unwrap();
    for named in &mut file.auth_infos {
        if let Some(info) = &mut named.auth_info {
            info.impersonate = Some(user.to_owned());
        }
    }
    // JSON is YAML.
    std::fs::write(path, serde_json::to_string(&file).unwrap()).unwrap();
}

async fn write(client: &Client, object: &Value) {
    let typed: DynamicObject = serde_json::from_value(object.clone()).unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(typed.types.as_ref().unwrap()).unwrap());
    let api: Api<DynamicObject> = match typed.namespace() {
        Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    // A namespace of an earlier run may still be going.
    until(&format!("{} {} to be written", resource.kind, typed.name_any()), || async {
        let result = api.patch(&typed.name_any(), &apply(), &Patch::Apply(object)).await;
        result.map(|_| ()).map_err(|error| error.to_string())
    })
    .await;
}

async fn install_kinds(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds::all() {
        let name = crd.name_any();
        let mut crd = serde_json::to_value(crd).unwrap();
        crd["metadata"]["labels"] = json!({labels::MANAGED_BY: labels::MANAGER});
        definitions.patch(&name, &apply(), &Patch::Apply(crd)).await.unwrap();
        await_condition(definitions.clone(), &name, conditions::is_crd_established()).await.unwrap();
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/rbac/injector.yaml");
    let role: ClusterRole = serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut role = serde_json::to_value(role).unwrap();
    role["metadata"]["labels"] = json!({labels::MANAGED_BY: labels::MANAGER});
    write(client, &role).await;
}

/// What an injector reads in its token; nobody here verifies it: {"sub":"system:serviceaccount:meshwright-system:injector"}.
const TOKEN: &str = "e30.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6bWVzaHdyaWdodC1zeXN0ZW06aW5qZWN0b3IifQ.c2ln";

/// A controller that gives everybody a certificate for `localhost` and an address; where it is, and its root.
async fn controller(address: std::net::IpAddr) -> (String, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = Arc::new(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap());
    let root = authority.pem();
    let key = KeyPair::generate().unwrap();
    let names = move || CertificateParams::new(vec!["localhost".to_owned(), address.to_string()]).unwrap();
    let leaf = names().signed_by(&key, &*authority).unwrap();
    let certificate = Certificate::none();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    certificate.set(&leaf.pem(), der).unwrap();
    let issue = move |body: String| async move {
        let mut request = CertificateSigningRequestParams::from_pem(&body).unwrap();
        request.params.subject_alt_names = names().subject_alt_names;
        let id = "spiffe://cluster.local/ns/meshwright-system/sa/injector";
        request.params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
        let chain = request.signed_by(&*authority).unwrap().pem();
        axum::Json(json!({
            "certificateChain": chain, "trustBundle": authority.pem(),
            "notAfter": "2999-01-01T00:00:00Z", "renewAfter": "2998-01-01T00:00:00Z",
        }))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = tls::server_config(certificate, ClientAuth::None).unwrap();
    let router = axum::Router::new().route("/v1/certificates", axum::routing::post(issue));
    tokio::spawn(tls::serve(listener, config, router, tls::Metrics::default(), Shutdown::default()));
    (format!("localhost:{port}"), root)
}
