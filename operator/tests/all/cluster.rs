//! A real API server (tests/cluster, tier api), prepared as an installation leaves it, and one operator in this
//! process that acts as its own service account: what `config/rbac` does not allow fails here.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use gitops::worker::{Addresses, Program};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use operator::context::{Context, Git, OwnPod, Settings};
use prometheus_client::registry::Registry;
use runtime::lease::Mandate;
use runtime::shutdown::Shutdown;
use serde_json::json;
use upgrades::Catalogue;

const VARIABLE: &str = "MESHWRIGHT_TEST_KUBECONFIG";
pub const OPERATOR_USER: &str = "system:serviceaccount:meshwright-system:meshwright-operator";
/// Much longer than anything takes; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(300);

pub fn kubeconfig() -> PathBuf {
    let path = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!(
            "{VARIABLE} is not set. These tests need a real API server: run `tests/cluster/cluster up --tier api \
             --name NAME`, then set {VARIABLE} to the kubeconfig that `tests/cluster/cluster env --name NAME` prints"
        )
    });
    PathBuf::from(path)
}

/// A client with the kubeconfig's own rights, or as another user.
pub async fn client(user: Option<&str>) -> Client {
    runtime::install_default();
    let file = Kubeconfig::read_from(kubeconfig()).expect("a kubeconfig");
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
    config.auth_info.impersonate = user.map(str::to_owned);
    config.default_retry = false; // as the daemon has it
    Client::try_from(config).unwrap()
}

/// Runs kubectl with the kubeconfig's own rights.
pub fn kubectl(args: &[&str]) {
    said_by_kubectl(args);
}

pub fn said_by_kubectl(args: &[&str]) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut command = Command::new(root.join("tests/cluster/cluster"));
    command.current_dir(root).env("KUBECONFIG", kubeconfig()).args(["kubectl", "--"]).args(args);
    let output = command.output().expect("tests/cluster/cluster runs");
    assert!(output.status.success(), "kubectl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Begins what an API server says when `config/admission` refuses something.
pub const FENCE: &str = "ValidatingAdmissionPolicy 'meshwright-operator-";

/// Whether the API server can have the fences of `config/admission` (Kubernetes 1.30 and newer).
pub fn has_fences() -> bool {
    let served =
        said_by_kubectl(&["api-resources", "--api-group=admissionregistration.k8s.io", "-o", "wide"]);
    served.lines().any(|line| {
        line.starts_with("validatingadmissionpolicies ") && line.contains("admissionregistration.k8s.io/v1 ")
    })
}

/// Definitions, namespace, rights and, where the server can have them, fences, as `kubectl apply -k` brings them.
pub fn prepare() {
    kubectl(&["apply", "-k", "config/crd"]);
    kubectl(&["wait", "--for=condition=Established", "crd/meshconfigs.meshwright.io", "--timeout=120s"]);
    kubectl(&["wait", "--for=condition=Established", "crd/policysources.meshwright.io", "--timeout=120s"]);
    kubectl(&["wait", "--for=condition=Established", "crd/meshupgrades.meshwright.io", "--timeout=120s"]);
    kubectl(&["apply", "-f", "config/operator/namespace.yaml"]);
    kubectl(&["apply", "-k", "config/rbac"]);
    if has_fences() {
        kubectl(&["apply", "-k", "config/admission"]);
    }
}

/// What [`prepare`] brings, and a running operator.
pub async fn with_operator() -> Client {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        prepare();
        std::thread::spawn(operator);
    });
    client(None).await
}

/// The pod that this operator would run in: its tokens for the controllers are bound to it.
async fn own_pod(client: &Client) -> OwnPod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "meshwright-system");
    // The namespace takes restricted pods only, where the server knows such levels.
    let security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let container = json!({"name": "operator", "image": "none",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}});
    let pod = json!({
        "metadata": {"name": "operator-under-test"},
        "spec": {"serviceAccountName": "meshwright-operator", "securityContext": security, "containers": [container]},
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    until("the operator's pod", || async {
        // Refused until the controller manager has made the token of its service account.
        match pods.create(&PostParams::default(), &pod).await {
            Ok(pod) => Ok(pod),
            Err(_) => pods.get("operator-under-test").await.map_err(|error| error.to_string()),
        }
    })
    .await
    .uid()
    .map(|uid| OwnPod { name: "operator-under-test".to_owned(), uid })
    .unwrap()
}

/// A context as the daemon makes it.
pub fn context(client: Client, pod: Option<OwnPod>) -> Arc<Context> {
    let settings = Settings {
        namespace: "meshwright-system".into(),
        image_prefix: "meshwright/".into(),
        catalogue: Catalogue::embedded(),
        cluster_domain: "cluster.local".into(),
        pod,
        git: Git {
            program: Program::at(env!("CARGO_BIN_EXE_meshwright-operator")),
            // The tests' servers are on this machine.
            addresses: Addresses { allowed: vec!["127.0.0.0/8".parse().unwrap()], refused: Vec::new() },
        },
    };
    Context::new(client, Mandate::unlimited(1), settings, &mut Registry::default(), Shutdown::default())
}

/// The reconcilers of control plane and policy sources, on a runtime of its own because each test's ends with the test.
fn operator() {
    if std::env::var_os(runtime::logging::FILTER_VARIABLE).is_some() {
        runtime::logging::init();
    }
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let pod = own_pod(&client(None).await).await;
        let ctx = context(client(Some(OPERATOR_USER)).await, Some(pod));
        tokio::try_join!(operator::control_plane::run(ctx.clone()), operator::policy_source::run(ctx))
            .unwrap();
    });
}

/// Waits until `look` returns something, looking often; fails with what it last said.
pub async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let start = Instant::now();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(why) if start.elapsed() > DEADLINE => panic!("gave up waiting for {what}: {why}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A namespace of a test's own.
pub async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    match api.create(&PostParams::default(), &namespace).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => panic!("{error}"),
    }
}

/// A namespace for a control plane other than the operator's own: there the operator needs to be given its rights for
/// such namespaces.
pub async fn control_plane_namespace(client: &Client, name: &str) {
    namespace(client, name).await;
    let apply = PatchParams::apply("test").force();
    let role = "meshwright-operator-namespace";
    let binding: RoleBinding = serde_json::from_value(json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": "meshwright-operator", "namespace": "meshwright-system"}],
    }))
    .unwrap();
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), name);
    bindings.patch(role, &apply, &Patch::Apply(&binding)).await.unwrap();
}

/// Waits until pods of a namespace may be made: its service account is there and, before Kubernetes 1.24, has its Secret.
pub async fn default_account(client: &Client, namespace: &str) {
    let minor = client.apiserver_version().await.unwrap().minor;
    let has_secrets = minor.trim_end_matches('+').parse::<u32>().unwrap() < 24;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    until("the namespace's service account", || async {
        let account = accounts.get("default").await.map_err(|error| error.to_string())?;
        if has_secrets && account.secrets.is_none() { Err("it has no token yet".to_owned()) } else { Ok(()) }
    })
    .await;
}

/// Plays the kubelet, of which this tier has none: every pod that the real Deployments made becomes ready.
pub async fn make_pods_ready(client: &Client, namespace: &str) {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for pod in api.list(&ListParams::default()).await.unwrap() {
        make_ready(&api, &pod.name_any()).await;
    }
}

/// The same for one pod.
pub async fn make_ready(pods: &Api<Pod>, name: &str) {
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": now});
    let status = json!({"status": {"phase": "Running", "conditions": [ready]}});
    // A pod that went away meanwhile needs nothing.
    let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
}
