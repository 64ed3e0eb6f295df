//! The sidecars that are connected to this replica, and `GET /v1/fleet` for the operator.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use crds::fleet::{AuthorityReport, FleetReport, ProblemReport, ProxyReport, Rejection};
use crds::labels;
use parking_lot::Mutex;
use runtime::tls::PeerCertificates;
use tokio_util::sync::CancellationToken;

use crate::certificates::holdings::Holdings;
use crate::identity;
use crate::snapshots::{PodRef, Snapshots};
use crate::xds::session::Rejections;
use bound::Bound;

mod bound;
#[cfg(test)]
mod tests;

/// Streams that one pod may have: two, because a sidecar that is being replaced in place has two Envoys for a while.
const STREAMS_PER_POD: usize = 2;

/// The sidecars that are connected.
#[derive(Default)]
pub struct Proxies {
    connected: Mutex<BTreeMap<PodRef, Vec<Arc<Connected>>>>,
}

/// One connected sidecar.
pub struct Connected {
    /// Which pod.
    pub pod: PodRef,
    /// Release of the sidecar.
    pub version: String,
    /// Envoy's version.
    pub envoy: String,
    /// RFC 3339.
    pub since: String,
    /// When it was opened.
    pub began: std::time::Instant,
    /// Cancelled when this replica has more than its share and this one may go elsewhere.
    pub spare: CancellationToken,
    /// Cancelled when a newer stream takes its place.
    pub replaced: CancellationToken,
    /// How it stands.
    pub status: Mutex<Status>,
}

/// How a sidecar stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it has acknowledged everything that it should hold now.
    pub in_sync: bool,
    /// What it refused, and what it is not sent because others did.
    pub rejected: Rejections,
    /// Resources held: clusters, endpoints, listeners, routes.
    pub held: [usize; 4],
}

impl Proxies {
    /// Adds a stream; the oldest of the same pod makes room if there are too many.
    pub fn add(&self, connected: Arc<Connected>) {
        let mut all = self.connected.lock();
        let streams = all.entry(connected.pod.clone()).or_default();
        streams.push(connected);
        if streams.len() > STREAMS_PER_POD {
            streams.remove(0).replaced.cancel();
        }
    }

    /// Removes a stream.
    pub fn remove(&self, connected: &Arc<Connected>) {
        let mut all = self.connected.lock();
        if let Some(streams) = all.get_mut(&connected.pod) {
            streams.retain(|other| !Arc::ptr_eq(other, connected));
            if streams.is_empty() {
                all.remove(&connected.pod);
            }
        }
    }

    /// The newest stream of each pod, sorted by namespace and pod.
    #[must_use]
    pub fn newest(&self) -> Vec<Arc<Connected>> {
        self.connected.lock().values().filter_map(|streams| streams.last().cloned()).collect()
    }
}

impl Connected {
    fn report(&self) -> ProxyReport {
        let status = self.status.lock().clone();
        ProxyReport {
            namespace: self.pod.namespace.clone(),
            pod: self.pod.name.clone(),
            uid: self.pod.uid.clone(),
            version: self.version.clone(),
            envoy: self.envoy.clone(),
            connected_since: self.since.clone(),
            in_sync: status.in_sync,
            rejected: status.rejected.first,
            rejected_more: u32::try_from(status.rejected.more).unwrap_or(u32::MAX),
        }
    }
}

/// Who may ask, and what for.
#[derive(Clone)]
pub struct Fleet {
    /// The mesh.
    pub snapshots: Snapshots,
    /// The sidecars.
    pub proxies: Arc<Proxies>,
    /// Name of this replica's pod.
    pub replica: String,
    /// Release of this controller.
    pub version: String,
    /// Namespace of the control plane.
    pub control_plane: String,
    /// The root of trust as this replica has it.
    pub authority: Arc<ArcSwapOption<AuthorityReport>>,
    /// What holders of certificates say.
    pub holdings: Holdings,
}

impl Fleet {
    /// The state of this replica.
    #[must_use]
    pub fn report(&self) -> FleetReport {
        let mut proxies: Vec<_> = self.proxies.newest().iter().map(|connected| connected.report()).collect();
        proxies.sort();
        let mut report = FleetReport {
            replica: self.replica.clone(),
            version: self.version.clone(),
            synced: self.snapshots.synced(),
            proxies,
            problems: self.problems(),
            authority: self.authority.load().as_deref().cloned(),
            holdings: self.holdings.report(std::time::Instant::now()),
            ..FleetReport::default()
        };
        Bound::default().apply(&mut report);
        report
    }

    /// What is wrong with objects, and which objects are part of something that an Envoy refused.
    fn problems(&self) -> Vec<ProblemReport> {
        let mut refused: BTreeMap<(String, String, String), String> = BTreeMap::new();
        for connected in self.proxies.newest() {
            let rejected = connected.status.lock().rejected.first.clone();
            for rejection in &rejected {
                let Some(kind) =
                    mesh::ResourceType::ALL.into_iter().find(|kind| kind.as_str() == rejection.resource_type)
                else {
                    continue;
                };
                // The first few say who is meant; the rest would only cost.
                for name in rejection.names.iter().take(bound::NAMES) {
                    for object in self.snapshots.authors(&connected.pod, kind, name) {
                        refused.entry(object).or_insert_with(|| told(&connected, rejection, name));
                    }
                }
            }
        }
        let refused = refused.into_iter().map(|((kind, namespace, name), message)| ProblemReport {
            kind,
            namespace,
            name,
            reason: "RejectedByEnvoy".to_owned(),
            message,
        });
        let mut problems: Vec<_> = self.snapshots.problems().iter().cloned().chain(refused).collect();
        problems.sort();
        problems
    }

    /// Everything, for `/debug/state`: audiences, what they are served, proxies, problems.
    #[must_use]
    pub fn debug(&self) -> serde_json::Value {
        let audiences: Vec<_> = self
            .snapshots
            .audiences()
            .iter()
            .map(|(audience, served)| {
                let resources: BTreeMap<_, BTreeMap<_, _>> = mesh::ResourceType::ALL
                    .into_iter()
                    .map(|kind| {
                        let versions = served.of(kind).iter().map(|(name, entry)| (name.clone(), entry.version.clone()));
                        (kind.as_str(), versions.map(|(name, version)| (name.to_string(), version.to_string())).collect())
                    })
                    .collect();
                serde_json::json!({"audience": audience, "generation": served.generation, "resources": resources})
            })
            .collect();
        let held: BTreeMap<_, _> = self
            .proxies
            .newest()
            .iter()
            .map(|connected| {
                let held = connected.status.lock().held;
                (format!("{}/{}", connected.pod.namespace, connected.pod.name), held)
            })
            .collect();
        serde_json::json!({
            "settings": self.snapshots.settings(),
            "report": self.report(),
            "audiences": audiences,
            "held": held,
        })
    }
}

/// What the author of an object is told when something that it is part of was refused.
fn told(connected: &Connected, rejection: &Rejection, name: &str) -> String {
    let last_good = match rejection.older_rules {
        true => "this sidecar enforces the older rules that it has, or none of its callers get through",
        false => "the last good configuration stays in force",
    };
    format!(
        "Envoy {} of {}/{} refused {} {name}, which this object is part of: {}; {last_good}; correct the object",
        connected.envoy,
        connected.pod.namespace,
        connected.pod.name,
        rejection.resource_type,
        bound::clipped(&rejection.error, bound::TEXT)
    )
}

/// The route; only the operator's service account may ask.
pub fn router(fleet: Fleet) -> Router {
    Router::new().route("/v1/fleet", get(report)).with_state(Arc::new(fleet))
}

async fn report(State(fleet): State<Arc<Fleet>>, peer: Option<Extension<PeerCertificates>>) -> Response {
    let settings = fleet.snapshots.settings();
    let operator = labels::spiffe_id(&settings.trust_domain, &fleet.control_plane, labels::OPERATOR);
    let caller = peer.and_then(|Extension(peer)| identity::of(&peer));
    if caller.is_none_or(|caller| caller.id != operator) {
        let body =
            serde_json::json!({"reason": "NotTheOperator", "message": format!("only {operator} may ask")});
        return (StatusCode::FORBIDDEN, axum::Json(body)).into_response();
    }
    axum::Json(fleet.report()).into_response()
}
