//! The whole way from a request to an answer, with a stand-in for the cluster.

use super::*;
use crate::certificates::authority::Authority;
use crate::certificates::testing::{Claim, Signer, root};
use crate::certificates::token::Keys;
use crate::certificates::verifier::{ApiError, TokenApi};
use axum::http::Request;
use rcgen::{CertificateParams, KeyPair, SanType};
use tower::ServiceExt;

struct Cluster(String);

impl TokenApi for Cluster {
    fn keys(&self) -> BoxFuture<'_, Result<Keys, ApiError>> {
        Box::pin(async { Ok(Keys::parse("https://kubernetes", &self.0).unwrap()) })
    }

    fn review<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Bearer>, ApiError>> {
        Box::pin(async { Ok(None) })
    }
}

struct OnePod(&'static str, PodFacts);

impl Pods for OnePod {
    fn wait_for<'a>(
        &'a self,
        namespace: &'a str,
        name: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Option<PodFacts>> {
        let found = (namespace == self.0 && name == "pod-1").then(|| self.1.clone());
        Box::pin(async { found })
    }
}

fn pod() -> PodFacts {
    PodFacts {
        uid: "uid-1".to_owned(),
        service_account: "buyer".to_owned(),
        revision: "0.1.0".to_owned(),
        terminating: false,
        not_ours: None,
    }
}

fn in_force(authority: Authority) -> InForce {
    InForce {
        signing: authority.fingerprint().to_owned(),
        trusted: vec![authority.fingerprint().to_owned()],
        bundle: authority.trust_bundle().to_owned(),
        authority: Some(Arc::new(authority)),
        ..InForce::default()
    }
}

struct Case {
    signer: Signer,
    namespace: &'static str,
    pod: PodFacts,
    ready: bool,
}

impl Default for Case {
    fn default() -> Self {
        Self { signer: Signer::p256("a"), namespace: "shop", pod: pod(), ready: true }
    }
}

/// Claims that are good now.
fn claim() -> Claim {
    Claim { exp: OffsetDateTime::now_utc().unix_timestamp() + 600, ..Claim::default() }
}

fn csr(names: Vec<SanType>) -> String {
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

impl Case {
    fn router(self) -> Router {
        let (certificate, key) = root();
        let authority = Authority::parse(&certificate, &key).unwrap();
        let policy =
            Policy { trust_domain: "cluster.local".to_owned(), workload_ttl: Duration::from_secs(86_400) };
        router(Arc::new(Issuing {
            verifier: TokenVerifier::new(
                Arc::new(Cluster(self.signer.jwks())),
                "main.meshwright.io".to_owned(),
            ),
            trust: Arc::new(ArcSwapOption::new(self.ready.then(|| Arc::new(in_force(authority))))),
            holdings: Holdings::default(),
            policy: Arc::new(ArcSwapOption::from_pointee(policy)),
            pods: Arc::new(OnePod(self.namespace, self.pod)),
            control_plane: "meshwright-system".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            metrics: Metrics::default(),
        }))
    }

    async fn ask(self, claim: &Claim, csr: String) -> (u16, serde_json::Value) {
        let token = self.signer.token(claim);
        ask(self.router(), Some(&token), csr).await
    }
}

async fn ask(router: Router, token: Option<&str>, csr: String) -> (u16, serde_json::Value) {
    post_to("/v1/certificates", router, token, csr).await
}

async fn post_to(path: &str, router: Router, token: Option<&str>, csr: String) -> (u16, serde_json::Value) {
    let mut request = Request::post(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let response = router.oneshot(request.body(Body::from(csr)).unwrap()).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn refused(case: Case, claim: Claim, csr: String) -> (u16, String) {
    let (status, body) = case.ask(&claim, csr).await;
    assert!(body["message"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    (status, body["reason"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_pod_of_the_mesh_gets_its_certificate() {
    let (status, body) = Case::default().ask(&claim(), csr(Vec::new())).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["certificateChain"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(body["trustBundle"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let time = |key: &str| OffsetDateTime::parse(body[key].as_str().unwrap(), &Rfc3339).unwrap();
    assert!(time("renewAfter") < time("notAfter"));
}

#[tokio::test]
async fn tokens_that_do_not_prove_it_are_refused_with_401() {
    let cases: [(Claim, &str); 5] = [
        (Claim { exp: 1, ..claim() }, "TokenExpired"),
        (Claim { aud: "other.meshwright.io", ..claim() }, "TokenAudience"),
        (Claim { pod: None, ..claim() }, "TokenNotPodBound"),
        (Claim { iss: "https://elsewhere", ..claim() }, "TokenIssuer"),
        (Claim { nbf: i64::MAX - 100, ..claim() }, "TokenNotYetValid"),
    ];
    for (claim, reason) in cases {
        assert_eq!(refused(Case::default(), claim, csr(Vec::new())).await, (401, reason.to_owned()));
    }
    // Signed by somebody else, with a key id that is known and with one that is not.
    for (kid, reason) in [("a", "TokenSignature"), ("b", "TokenRejected")] {
        let token = Signer::p256(kid).token(&claim());
        let (status, body) = ask(Case::default().router(), Some(&token), csr(Vec::new())).await;
        assert_eq!((status, body["reason"].as_str().unwrap()), (401, reason));
    }
    let (status, body) = ask(Case::default().router(), None, csr(Vec::new())).await;
    assert_eq!((status, body["reason"].as_str().unwrap()), (401, "TokenMissing"));
}

#[tokio::test]
async fn identities_that_are_not_theirs_are_refused_with_403() {
    let replaced = Case { pod: PodFacts { uid: "uid-2".to_owned(), ..pod() }, ..Case::default() };
    assert_eq!(refused(replaced, claim(), csr(Vec::new())).await.1, "PodReplaced");
    let other = PodFacts { service_account: "thief".to_owned(), ..pod() };
    let other = Case { pod: other, ..Case::default() };
    assert_eq!(refused(other, claim(), csr(Vec::new())).await.1, "ServiceAccountMismatch");
    // A token of another namespace's service account: no such pod there.
    let foreign = Claim { namespace: "bank", ..claim() };
    assert_eq!(refused(Case::default(), foreign, csr(Vec::new())).await, (403, "PodNotFound".to_owned()));
    let outside = PodFacts { not_ours: Some(NotOurs::NamespaceNotInMesh), ..pod() };
    let outside = Case { pod: outside, ..Case::default() };
    assert_eq!(refused(outside, claim(), csr(Vec::new())).await, (403, "NamespaceNotInMesh".to_owned()));
    let done = Case { pod: PodFacts { not_ours: Some(NotOurs::Finished), ..pod() }, ..Case::default() };
    assert_eq!(refused(done, claim(), csr(Vec::new())).await.1, "PodNotFound");
    let thief = SanType::URI("spiffe://cluster.local/ns/shop/sa/thief".try_into().unwrap());
    assert_eq!(
        refused(Case::default(), claim(), csr(vec![thief])).await,
        (403, "IdentityMismatch".to_owned())
    );
}

#[tokio::test]
async fn the_control_plane_needs_no_sidecar() {
    let outside = PodFacts { not_ours: Some(NotOurs::NamespaceNotInMesh), ..pod() };
    let case = Case { namespace: "meshwright-system", pod: outside, ..Case::default() };
    let claim = Claim { namespace: "meshwright-system", ..claim() };
    assert_eq!(case.ask(&claim, csr(Vec::new())).await.0, 200);
}

#[tokio::test]
async fn a_replica_without_a_root_says_so() {
    let case = Case { ready: false, ..Case::default() };
    assert_eq!(refused(case, claim(), csr(Vec::new())).await, (503, "NotReady".to_owned()));
}

#[tokio::test]
async fn bad_requests_are_refused_with_400() {
    assert_eq!(refused(Case::default(), claim(), "x".to_owned()).await, (400, "CsrUnreadable".to_owned()));
    let long = "x".repeat(MAX_CSR + 1);
    assert_eq!(refused(Case::default(), claim(), long).await, (400, "CsrTooLarge".to_owned()));
}

#[tokio::test]
async fn a_holder_tells_what_it_holds_and_hears_what_it_should() {
    let case = Case::default();
    let token = case.signer.token(&claim());
    let router = case.router();
    let other = "0f".repeat(32);
    let report = serde_json::json!({"roots": [other], "issuer": other, "sequence": 1}).to_string();
    let (status, body) = post_to("/v1/holdings", router.clone(), Some(&token), report.clone()).await;
    assert_eq!(status, 200, "{body}");
    assert!(body["trustBundle"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    assert_eq!(body["trustedRoots"][0], body["issuer"]);
    assert_eq!(body["reportAfterSeconds"], 30);
    let refused = post_to("/v1/holdings", router.clone(), Some(&token), "{}".to_owned()).await;
    assert_eq!((refused.0, refused.1["reason"].as_str().unwrap()), (400, "ReportUnreadable"));
    let refused = post_to("/v1/holdings", router, None, report).await;
    assert_eq!((refused.0, refused.1["reason"].as_str().unwrap()), (401, "TokenMissing"));
}
