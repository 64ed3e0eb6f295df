//! A root of trust, a mesh filled by hand, a controller on a real port, and waiting.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use controller::certificates::authority::{Authority, Subject};
use controller::certificates::holdings::Holdings;
use controller::daemon::{Options, empty_mesh};
use controller::fleet::{Fleet, Proxies};
use controller::metrics::Metrics;
use controller::snapshots::{Alter, Input, Snapshots};
use controller::xds::server::{Ads, Limits, router};
use mesh::{Object, ResourceType};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use runtime::certificates::Identity;
use runtime::shutdown::Shutdown;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

/// Long enough for a busy machine; nothing waits this long when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until `found` gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut found: impl FnMut() -> F) -> T {
    let wait = async {
        loop {
            if let Some(value) = found().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited in vain until {what}"))
}

/// Waits until `is` holds.
pub async fn until_true(what: &str, mut is: impl FnMut() -> bool) {
    until(what, || std::future::ready(is().then_some(()))).await;
}

/// A root of trust: certificate and key, PEM.
pub fn root() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(3650);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Chain and key of somebody, PEM.
pub fn leaf(authority: &Authority, spiffe_id: &str, dns: &[&str]) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let dns_names = dns.iter().map(|name| (*name).to_owned()).collect();
    let subject = Subject { spiffe_id: spiffe_id.to_owned(), dns_names };
    let leaf =
        authority.sign(&subject, &key, Duration::from_secs(3600), time::OffsetDateTime::now_utc()).unwrap();
    (leaf.chain, key)
}

pub fn options() -> Options {
    Options {
        mesh: "main".to_owned(),
        namespace: "meshwright-system".to_owned(),
        revision: "0.1.0".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        replica: "controller-1".to_owned(),
        most_streams: 1000,
        stream_age: Duration::from_secs(3600),
    }
}

/// A controller whose mesh is filled by hand.
pub struct Controller {
    pub address: SocketAddr,
    pub authority: Authority,
    pub snapshots: Snapshots,
    pub proxies: Arc<Proxies>,
    pub metrics: Metrics,
    shutdown: Shutdown,
}

impl Controller {
    pub async fn start(objects: Vec<Object>, alter: Option<Alter>) -> Self {
        runtime::install_default();
        let (certificate, key) = root();
        let authority = Authority::parse(&certificate, &key).unwrap();
        let identity = Identity::default();
        identity.roots.set(&certificate).unwrap();
        let own = "spiffe://cluster.local/ns/meshwright-system/sa/meshwright-controller-0-1-0";
        let (chain, key) = leaf(&authority, own, &["controller.test"]);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        identity.certificate.set(&chain, key).unwrap();
        let metrics = Metrics::default();
        let snapshots =
            Snapshots::start_with(empty_mesh(&options()).unwrap(), metrics.clone(), alter).unwrap();
        for object in objects {
            snapshots.send(Input::Apply(Box::new(object))).await;
        }
        snapshots.send(Input::Synced).await;
        let (proxies, shutdown) = (Arc::new(Proxies::default()), Shutdown::default());
        let ads = Ads {
            snapshots: snapshots.clone(),
            proxies: proxies.clone(),
            canaries: Arc::default(),
            door: Arc::default(),
            metrics: metrics.clone(),
            stopping: shutdown.stopping.clone(),
            leaving: Arc::default(),
            limits: Limits::default(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = runtime::tls::Metrics::default();
        let config = identity.server_config().unwrap();
        tokio::spawn(runtime::tls::serve(listener, config, router(ads), tls, shutdown.clone()));
        Self { address, authority, snapshots, proxies, metrics, shutdown }
    }

    pub async fn apply(&self, object: Object) {
        self.snapshots.send(Input::Apply(Box::new(object))).await;
    }

    pub fn acks(&self, kind: ResourceType) -> u64 {
        self.metrics.acks.get_or_create(&Metrics::per(kind)).get()
    }

    pub fn nacks(&self) -> u64 {
        let all = ResourceType::ALL.iter();
        all.map(|kind| self.metrics.nacks.get_or_create(&Metrics::per(*kind)).get()).sum()
    }

    /// What the operator is told.
    pub fn fleet(&self) -> Fleet {
        Fleet {
            snapshots: self.snapshots.clone(),
            proxies: self.proxies.clone(),
            replica: "controller-1".to_owned(),
            version: "0.1.0".to_owned(),
            control_plane: "meshwright-system".to_owned(),
            authority: Arc::default(),
            holdings: Holdings::default(),
        }
    }

    /// Resources sent since the start.
    pub fn sent(&self) -> u64 {
        let all = ResourceType::ALL.iter();
        all.map(|kind| self.metrics.sent.get_or_create(&Metrics::per(*kind)).get()).sum()
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.shutdown.stopping.cancel();
        self.shutdown.overdue.cancel();
    }
}

fn object<T: serde::de::DeserializeOwned + Into<Object>>(value: Value) -> Object {
    serde_json::from_value::<T>(value).unwrap().into()
}

pub fn pod_value(name: &str, account: &str, app: &str) -> Value {
    json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-{name}"),
            "labels": {"app": app, "meshwright.io/mesh": "main", "meshwright.io/revision": "0.1.0"},
        },
        "spec": {"serviceAccountName": account, "containers": [{"name": "meshwright-proxy"}]},
        "status": {"phase": "Running"},
    })
}

/// The ready endpoints of the bookstore.
pub fn slice(addresses: &[&str]) -> Object {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| {
            json!({"addresses": [address], "conditions": {"ready": true},
                   "targetRef": {"kind": "Pod", "namespace": "shop", "name": "bookstore-1"}})
        })
        .collect();
    object::<k8s_openapi::api::discovery::v1::EndpointSlice>(json!({
        "metadata": {"name": "bookstore-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "bookstore"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
    }))
}

/// A buyer who may call a bookstore.
pub fn shop() -> Vec<Object> {
    use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
    let mut bookstore = pod_value("bookstore-1", "bookstore", "bookstore");
    // An endpoint counts only at an address that the pod has.
    bookstore["status"]["podIPs"] = (1..=8).map(|n| json!({"ip": format!("10.8.0.{n}")})).collect();
    vec![
        object::<Namespace>(json!({"metadata": {"name": "shop", "labels": {"meshwright.io/mesh": "main"}}})),
        object::<Pod>(pod_value("buyer-1", "buyer", "buyer")),
        object::<Pod>(bookstore),
        object::<Service>(json!({
            "metadata": {"name": "bookstore", "namespace": "shop"},
            "spec": {"clusterIP": "10.9.0.1", "selector": {"app": "bookstore"},
                     "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        })),
        slice(&["10.8.0.1"]),
        object::<crds::HTTPRouteGroup>(json!({
            "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "HTTPRouteGroup",
            "metadata": {"name": "books", "namespace": "shop"},
            "spec": {"matches": [{"name": "all", "pathRegex": "/books.*", "methods": ["GET"]}]},
        })),
        object::<crds::TrafficTarget>(json!({
            "apiVersion": "access.smi-spec.io/v1alpha3", "kind": "TrafficTarget",
            "metadata": {"name": "buy", "namespace": "shop"},
            "spec": {
                "destination": {"kind": "ServiceAccount", "name": "bookstore", "namespace": "shop"},
                "sources": [{"kind": "ServiceAccount", "name": "buyer", "namespace": "shop"}],
                "rules": [{"kind": "HTTPRouteGroup", "name": "books"}],
            },
        })),
    ]
}
