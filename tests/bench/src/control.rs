//! The whole controller port, with a mesh that is filled by hand and tokens that are believed: for real sidecars and
//! injectors.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use controller::certificates::authority::Authority;
use controller::certificates::endpoint::{self, Issuing};
use controller::certificates::holdings::Holdings;
use controller::certificates::token::{Bearer, Keys, Token};
use controller::certificates::trust::InForce;
use controller::certificates::verifier::{ApiError, TokenApi, TokenVerifier};
use controller::metrics::Metrics;
use controller::snapshots::{Input, Snapshots};
use controller::xds::server::{Ads, Limits, router};
use crds::MeshConfigSpec;
use futures::future::BoxFuture;
use mesh::{Mesh, Object, Settings};
use runtime::shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

use crate::authority;

/// Name of the mesh.
pub const MESH: &str = "bench";
/// The name that its certificate has.
pub const HOST: &str = "localhost";

/// A running controller port.
pub struct Control {
    /// Where it listens.
    pub address: SocketAddr,
    /// The root of trust, PEM.
    pub root: String,
}

/// Says of every token what it says of itself.
struct Believing;

impl TokenApi for Believing {
    fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>> {
        Box::pin(async { Ok(Keys::default()) })
    }

    fn review<'a>(
        &'a self,
        token: &'a str,
        audience: &'a str,
    ) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>> {
        let now = time::OffsetDateTime::now_utc().unix_timestamp();
        let bearer = Token::parse(token).and_then(|token| token.bearer(audience, now)).ok();
        Box::pin(async { Ok(bearer) })
    }
}

/// A token of a pod, whose uid is its name.
#[must_use]
pub fn token(namespace: &str, service_account: &str, pod: &str) -> String {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = serde_json::json!({"alg": "ES256", "kid": "bench"});
    let claims = serde_json::json!({
        "iss": "bench", "sub": format!("system:serviceaccount:{namespace}:{service_account}"),
        "aud": [crds::labels::audience(MESH)], "exp": 4_000_000_000_i64,
        "kubernetes.io": {
            "namespace": namespace, "serviceaccount": {"name": service_account, "uid": "x"},
            "pod": {"name": pod, "uid": pod},
        },
    });
    format!("{}.{}.AAAA", part(header), part(claims))
}

impl Control {
    /// Starts one on a port of loopback; it lives as long as the runtime.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(spec: MeshConfigSpec, objects: Vec<Object>) -> anyhow::Result<Self> {
        let (root, key) = authority::root()?;
        let signs = Arc::new(Authority::parse(&root, &key)?);
        let identity = authority::server(&signs, &root, HOST)?;
        let metrics = Metrics::default();
        let snapshots = Snapshots::start(Mesh::new(Settings::new(MESH, &spec)), metrics.clone())?;
        snapshots.send(Input::Settings(Box::new(spec))).await;
        for object in objects {
            snapshots.send(Input::Apply(Box::new(object))).await;
        }
        snapshots.send(Input::Synced).await;
        let fingerprint = signs.fingerprint().to_owned();
        let trust = InForce {
            serial: 1,
            signing: fingerprint.clone(),
            trusted: vec![fingerprint],
            bundle: signs.trust_bundle().to_owned(),
            authority: Some(signs),
            rotating: false,
        };
        let issuing = Issuing {
            verifier: TokenVerifier::new(Arc::new(Believing), crds::labels::audience(MESH)),
            trust: Arc::new(ArcSwapOption::from_pointee(trust)),
            holdings: Holdings::default(),
            policy: snapshots.policy(),
            pods: Arc::new(snapshots.clone()),
            control_plane: crds::labels::SYSTEM_NAMESPACE.to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            metrics: endpoint::Metrics::default(),
        };
        let ads = Ads {
            snapshots,
            proxies: Arc::default(),
            canaries: Arc::default(),
            door: Arc::default(),
            metrics,
            stopping: CancellationToken::new(),
            leaving: Arc::default(),
            limits: Limits::default(),
        };
        let routes = endpoint::router(Arc::new(issuing)).merge(router(ads));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (tls, shutdown) = (runtime::tls::Metrics::default(), Shutdown::default());
        tokio::spawn(runtime::tls::serve(listener, identity.server_config()?, routes, tls, shutdown));
        Ok(Self { address, root })
    }
}
