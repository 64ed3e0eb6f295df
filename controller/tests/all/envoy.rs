//! Real Envoys on delta ADS over mutual TLS.
//!
//! Each Envoy has a network and a mount namespace of its own (its ports and /run/meshwright are fixed), and reaches
//! the controller through a unix socket that the test relays and can cut.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use controller::snapshots::Alter;
use mesh::ResourceType::{Cluster, Endpoint};
use mesh::{Delta, Resource};
use prost::Message;
use serde_json::json;
use tokio::net::{TcpStream, UnixListener};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::support::{Controller, leaf, shop, slice, until_true};

/// Where an Envoy answers about itself, in its folder.
pub const ADMIN: &str = "admin.sock";

/// Prints the path of a real Envoy (tests/cluster).
fn binary(version: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cluster/cluster");
    let output = Command::new(script).args(["envoy", version]).output().expect("tests/cluster/cluster runs");
    assert!(output.status.success(), "no Envoy {version}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Relays a unix socket to the controller.
pub struct Relay {
    cut: tokio::sync::watch::Sender<CancellationToken>,
    _task: JoinSet<()>,
}

impl Relay {
    pub fn start(path: &Path, controller: &Controller) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (cut, token) = tokio::sync::watch::channel(CancellationToken::new());
        let address = controller.address;
        let mut task = JoinSet::new();
        task.spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let cut = token.borrow().clone();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(address).await else { return };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        Self { cut, _task: task }
    }

    /// Breaks every connection; new ones are taken.
    pub fn cut(&self) {
        self.cut.send_replace(CancellationToken::new()).cancel();
    }
}

/// An Envoy that is ended with the test.
pub struct Envoy {
    process: Child,
    log: PathBuf,
}

impl Envoy {
    pub fn start(version: &str, folder: &Path, controller: &Controller, pod: &str, account: &str) -> Self {
        let (chain, key) =
            leaf(&controller.authority, &format!("spiffe://cluster.local/ns/shop/sa/{account}"), &[]);
        let (key, root) = (key.serialize_pem(), controller.authority.trust_bundle());
        let secret = |name: &str, field: &str, value: serde_json::Value| {
            let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
            let text = json!({"resources": [{"@type": kind, "name": name, field: value}]}).to_string();
            std::fs::write(folder.join(format!("{name}.json")), text).unwrap();
        };
        let own =
            json!({"certificate_chain": {"inline_string": chain}, "private_key": {"inline_string": key}});
        secret("identity", "tls_certificate", own.clone());
        secret("trust", "validation_context", json!({"trusted_ca": {"inline_string": root}}));
        let socket = folder.join("controller.sock");
        let bootstrap = bootstrap(pod, account, &socket, &own, root);
        std::fs::write(folder.join("bootstrap.json"), bootstrap.to_string()).unwrap();
        let log = folder.join("envoy.log");
        let script = "ip link set lo up && mkdir -p /run/meshwright && mount -t tmpfs tmpfs /run/meshwright \
                      && mkdir /run/meshwright/sds && cp \"$1\"/identity.json \"$1\"/trust.json /run/meshwright/sds/ \
                      && exec \"$2\" -c \"$1\"/bootstrap.json --use-dynamic-base-id --concurrency 1 -l warning";
        let process = Command::new("unshare")
            .args(["--mount", "--net", "sh", "-c", script, "sh"])
            .arg(folder)
            .arg(binary(version))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .expect("unshare runs (as root)");
        Self { process, log }
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn bootstrap(
    pod: &str,
    account: &str,
    socket: &Path,
    own: &serde_json::Value,
    root: &str,
) -> serde_json::Value {
    let tls = json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "controller.test",
        "common_tls_context": {
            "tls_certificates": [own],
            "validation_context": {
                "trusted_ca": {"inline_string": root},
                "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "controller.test"}}],
            },
        },
    });
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    json!({
        "admin": {"address": {"pipe": {"path": socket.with_file_name(ADMIN)}}},
        "node": {
            "id": format!("{pod}.shop"), "cluster": format!("{account}.shop"),
            "metadata": {"pod_uid": format!("uid-{pod}"), "revision": "0.1.0"},
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "controller", "retry_policy": {
                    "retry_back_off": {"base_interval": "0.1s", "max_interval": "0.5s"},
                }}}],
            },
            "cds_config": ads, "lds_config": ads,
        },
        "static_resources": {"clusters": [{
            "name": "controller", "connect_timeout": "5s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "controller", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": socket}}}},
            ]}]},
            "transport_socket": {"name": "tls", "typed_config": tls},
        }]},
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {
            "re2.max_program_size.error_level": 32768,
        }}]},
    })
}

/// What the mesh says, and while the switch is on a cluster that Envoy refuses and one that it takes.
/// Clusters of services: what reaches a service goes to canaries first, and rules do not.
const BAD: &str = "out|shop|bad|80";
const GOOD: &str = "out|shop|good|80";

fn with_switch() -> (Arc<AtomicBool>, Alter) {
    let switch = Arc::new(AtomicBool::new(false));
    let on = switch.clone();
    let alter: Alter = Box::new(move |_, delta| {
        let on = on.load(Ordering::SeqCst);
        // A connection timeout below zero.
        set_cluster(delta, BAD, on.then_some(-1));
        set_cluster(delta, GOOD, on.then_some(1));
    });
    (switch, alter)
}

fn set_cluster(delta: &mut Delta, name: &str, seconds: Option<i64>) {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster as Message_;
    use envoy_types::pb::envoy::service::discovery::v3::Resource as Wire;
    use envoy_types::pb::google::protobuf::{Any, Duration};
    let key = (Cluster, name.into());
    let Some(seconds) = seconds else {
        delta.insert(key, None);
        return;
    };
    let connect_timeout = Some(Duration { seconds, nanos: 0 });
    let cluster = Message_ { name: name.to_owned(), connect_timeout, ..Message_::default() };
    let any = Any { type_url: Cluster.type_url().to_owned(), value: cluster.encode_to_vec() };
    let version = format!("{name}-{seconds}");
    let wire =
        Wire { name: name.to_owned(), version: version.clone(), resource: Some(any), ..Wire::default() };
    let body = wire.encode_to_vec().into();
    let resource = Resource { name: name.to_owned(), version, body, clusters: Arc::default() };
    delta.insert(key, Some(Arc::new(resource)));
}

impl Controller {
    pub fn in_sync(&self) -> bool {
        let all = self.proxies.newest();
        !all.is_empty() && all.iter().all(|proxy| proxy.status.lock().in_sync)
    }

    pub fn rejected(&self) -> Vec<String> {
        let all = self.proxies.newest();
        all.iter()
            .flat_map(|proxy| {
                proxy.status.lock().rejected.first.iter().flat_map(|r| r.names.clone()).collect::<Vec<_>>()
            })
            .collect()
    }
}

async fn story(version: &str) {
    let (switch, alter) = with_switch();
    let controller = Controller::start(shop(), Some(alter)).await;
    let folder = tempfile::tempdir().unwrap();
    let relay = Relay::start(&folder.path().join("controller.sock"), &controller);
    let _envoy = Envoy::start(version, folder.path(), &controller, "buyer-1", "buyer");

    until_true("the first configuration is acknowledged", || controller.in_sync()).await;
    let proxy = controller.proxies.newest().remove(0);
    assert_eq!((proxy.envoy.as_str(), proxy.version.as_str()), (version, "0.1.0"));
    assert_eq!(controller.nacks(), 0);
    let held = proxy.status.lock().held;
    assert!(held.iter().all(|count| *count > 0), "clusters, endpoints, listeners and routes: {held:?}");

    let before = controller.acks(Endpoint);
    controller.apply(slice(&["10.8.0.1", "10.8.0.2"])).await;
    until_true("the endpoint is acknowledged", || controller.acks(Endpoint) > before).await;
    until_true("in sync again", || controller.in_sync()).await;

    switch.store(true, Ordering::SeqCst);
    refresh(&controller, "on").await;
    until_true("the bad cluster is named", || controller.rejected() == [BAD]).await;
    let error = proxy.status.lock().rejected.first[0].error.clone();
    assert!(error.contains("duration"), "Envoy's own words: {error}");
    let clusters = held[0];
    until_true("its neighbour is in place", || proxy.status.lock().held[0] == clusters + 1).await;
    let nacks = controller.nacks();
    // Another change passes, and what was refused is not sent again.
    let before = controller.acks(Endpoint);
    controller.apply(slice(&["10.8.0.3"])).await;
    until_true("the endpoint is acknowledged", || controller.acks(Endpoint) > before).await;
    assert_eq!(controller.nacks(), nacks);

    switch.store(false, Ordering::SeqCst);
    refresh(&controller, "off").await;
    until_true("all is well again", || controller.in_sync() && controller.rejected().is_empty()).await;

    let sent = controller.sent();
    relay.cut();
    until_true("another stream is in sync", || {
        let newest = controller.proxies.newest();
        newest.first().is_some_and(|other| !Arc::ptr_eq(other, &proxy)) && controller.in_sync()
    })
    .await;
    assert_eq!(controller.sent(), sent, "nothing was sent again");
    until_true("the new stream holds what the old one held", || {
        controller.proxies.newest().first().is_some_and(|other| other.status.lock().held == held)
    })
    .await;
}

/// A change that touches every audience.
pub async fn refresh(controller: &Controller, value: &str) {
    let policy = json!({
        "apiVersion": "specs.smi-spec.io/v1alpha4", "kind": "TCPRoute",
        "metadata": {"name": format!("refresh-{value}"), "namespace": "shop"}, "spec": {"matches": {"ports": [1]}},
    });
    controller.apply(serde_json::from_value::<crds::TCPRoute>(policy).unwrap().into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oldest_envoy_acknowledges_refuses_and_comes_back() {
    story("1.36.4").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newest_envoy_acknowledges_refuses_and_comes_back() {
    story("1.40.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_with_another_identity_gets_nothing() {
    let controller = Controller::start(shop(), None).await;
    let folder = tempfile::tempdir().unwrap();
    let _relay = Relay::start(&folder.path().join("controller.sock"), &controller);
    // The thief's certificate, saying that it is the buyer's pod.
    let _envoy = Envoy::start("1.40.0", folder.path(), &controller, "buyer-1", "thief");
    let refused = controller::metrics::Ended { reason: controller::metrics::End::Refused };
    until_true("the stream is refused", || controller.metrics.ended.get_or_create(&refused).get() > 0).await;
    assert_eq!((controller.sent(), controller.proxies.newest().len()), (0, 0));
}

/// One tries and refuses; the other, with the same Envoy, never gets it, and both keep what they have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_envoy_refuses_no_other_is_given() {
    let (switch, alter) = with_switch();
    let mut objects = shop();
    let other = crate::support::pod_value("buyer-2", "buyer", "buyer");
    objects.push(serde_json::from_value::<k8s_openapi::api::core::v1::Pod>(other).unwrap().into());
    let controller = Controller::start(objects, Some(alter)).await;
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let _relays =
        folders.each_ref().map(|folder| Relay::start(&folder.path().join("controller.sock"), &controller));
    let pods = ["buyer-1", "buyer-2"];
    let _envoys: Vec<_> = std::iter::zip(&folders, pods)
        .map(|(folder, pod)| Envoy::start("1.40.0", folder.path(), &controller, pod, "buyer"))
        .collect();
    until_true("both are in sync", || controller.proxies.newest().len() == 2 && controller.in_sync()).await;
    let held: Vec<_> = controller.proxies.newest().iter().map(|proxy| proxy.status.lock().held[0]).collect();

    switch.store(true, Ordering::SeqCst);
    refresh(&controller, "on").await;
    until_true("both are told of it", || controller.rejected() == [BAD, BAD]).await;
    until_true("the good cluster is in place at both", || {
        let all = controller.proxies.newest();
        std::iter::zip(all, &held).all(|(proxy, held)| proxy.status.lock().held[0] == held + 1)
    })
    .await;
    // Together with its neighbour, then alone: by the same one.
    assert_eq!(controller.nacks(), 2);
    let problems = controller.fleet().report().problems;
    let told: Vec<_> = problems.iter().filter(|problem| problem.reason == "RejectedByEnvoy").collect();
    assert!(
        told.len() == 1
            && (told[0].kind.as_str(), told[0].name.as_str()) == ("Service", "bad")
            && told[0].message.contains("duration"),
        "{problems:?}"
    );

    switch.store(false, Ordering::SeqCst);
    refresh(&controller, "off").await;
    until_true("all is well again", || controller.in_sync() && controller.rejected().is_empty()).await;
    assert!(controller.fleet().report().problems.iter().all(|problem| problem.reason != "RejectedByEnvoy"));
}
