//! The client against a controller that this file plays, over real TLS.

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateSigningRequestParams, CertifiedIssuer, IsCa};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::shutdown::Shutdown;

type Authority = CertifiedIssuer<'static, KeyPair>;

/// What the controller shall answer next, and what it was asked.
#[derive(Default)]
struct Script {
    refuse: Option<(u16, &'static str)>,
    tokens: Vec<String>,
    keys: Vec<Vec<u8>>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn answer(
    script: &Mutex<Script>,
    authority: &Authority,
    headers: &HeaderMap,
    body: &str,
) -> (StatusCode, serde_json::Value) {
    let mut script = script.lock();
    script.tokens.push(headers[header::AUTHORIZATION].to_str().unwrap().to_owned());
    if let Some((status, reason)) = script.refuse.take() {
        return (StatusCode::from_u16(status).unwrap(), json!({"reason": reason, "message": "no"}));
    }
    let request = CertificateSigningRequestParams::from_pem(body).unwrap();
    script.keys.push(rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec());
    let chain = request.signed_by(authority).unwrap().pem();
    let answer = json!({
        "certificateChain": chain, "trustBundle": authority.pem(),
        "notAfter": "2999-01-01T00:00:00Z", "renewAfter": "2998-01-01T00:00:00Z",
    });
    (StatusCode::OK, answer)
}

/// Starts the controller; returns a client for it.
async fn scene() -> (Client, Arc<Mutex<Script>>, Arc<ArcSwapOption<String>>) {
    let (authority, script) = (Arc::new(authority()), Arc::new(Mutex::new(Script::default())));
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["c.test".to_owned()]).unwrap().signed_by(&key, &*authority).unwrap();
    let certificate = Certificate::none();
    certificate
        .set(&leaf.pem(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    let trust = Arc::new(ArcSwapOption::from_pointee(authority.pem()));
    let told = script.clone();
    let handler = move |headers: HeaderMap, body: String| async move {
        let (status, body) = answer(&told, &authority, &headers, &body);
        (status, Json(body))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = tls::server_config(certificate, ClientAuth::None).unwrap();
    let router = Router::new().route("/v1/certificates", post(handler));
    tokio::spawn(tls::serve(listener, config, router, tls::Metrics::default(), Shutdown::default()));
    let ask: AskForToken = Arc::new(|| Box::pin(async { Ok("secret-token\n".to_owned()) }));
    let client = Client::new(Settings {
        controller: Peer { address, server_name: "c.test".to_owned() },
        token: TokenSource::Ask(ask),
        trust: TrustSource::Shared(trust.clone()),
    });
    (client, script, trust)
}

#[tokio::test]
async fn a_certificate_is_asked_for_with_the_token_and_a_new_key_each_time() {
    let (client, script, _trust) = scene().await;
    let identity = client.identity();
    assert!(!identity.certificate.is_set());
    let issued = client.issue().await.unwrap();
    assert!(identity.certificate.is_set());
    assert!(issued.renew_after < issued.not_after);
    client.issue().await.unwrap();
    let script = script.lock();
    assert_eq!(script.tokens, ["Bearer secret-token", "Bearer secret-token"]);
    assert_ne!(script.keys[0], script.keys[1]);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_controllers_words_and_keeps_the_old_certificate() {
    let (client, script, trust) = scene().await;
    client.issue().await.unwrap();
    script.lock().refuse = Some((401, "TokenExpired"));
    let refused = client.issue().await;
    assert!(
        matches!(&refused, Err(CertificateError::Refused { status: 401, reason, .. }) if reason == "TokenExpired"),
        "{refused:?}"
    );
    assert!(client.identity().certificate.is_set());
    trust.store(None);
    assert!(matches!(client.issue().await, Err(CertificateError::Trust(_))));
    trust.store(Some(Arc::new(authority().pem())));
    assert!(matches!(client.issue().await, Err(CertificateError::Https(_))), "a controller of another root");
}

/// Whether a client with this identity trusts a server whose certificate this authority signed.
async fn trusts(identity: &Identity, authority: &Authority) -> bool {
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["c.test".to_owned()]).unwrap().signed_by(&key, authority).unwrap();
    let certificate = Certificate::none();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    certificate.set(&leaf.pem(), der).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = tls::server_config(certificate, ClientAuth::None).unwrap();
    let router = Router::new().route("/", axum::routing::get(|| async { "hello" }));
    tokio::spawn(tls::serve(listener, config, router, tls::Metrics::default(), Shutdown::default()));
    let request = Request::get("/").body(Full::default()).unwrap();
    let peer = Peer { address, server_name: "c.test".to_owned() };
    https::send(&peer, identity.client_config().unwrap(), request, LIMITS).await.is_ok()
}

/// A mounted bundle lags behind what controllers say, and a root that was dropped is still in it.
#[tokio::test]
async fn a_renewal_widens_no_trust() {
    let (client, script, trust) = scene().await;
    let dropped = authority();
    let known = trust.load_full().unwrap();
    client.issue().await.unwrap();
    assert!(!trusts(&client.identity(), &dropped).await);
    trust.store(Some(Arc::new(format!("{known}{}", dropped.pem()))));
    script.lock().refuse = Some((503, "NotReady"));
    assert!(client.issue().await.is_err(), "the renewal fails, with both roots in the mounted bundle");
    assert!(!trusts(&client.identity(), &dropped).await, "what the last controller said stays in force");
    client.issue().await.unwrap();
    assert!(!trusts(&client.identity(), &dropped).await);
    assert!(client.identity().certificate.is_set());
}

#[tokio::test]
async fn after_a_failure_it_is_tried_again() {
    let (client, script, _trust) = scene().await;
    script.lock().refuse = Some((503, "NotReady"));
    let stop = CancellationToken::new();
    let told = Mutex::new(Vec::new());
    let hear = |result: &Result<Issued, CertificateError>| {
        told.lock().push(result.is_ok());
        if result.is_ok() {
            stop.cancel();
        }
    };
    client.keep(stop.clone(), hear).await;
    assert_eq!(*told.lock(), [false, true]);
}

#[test]
fn the_clock_is_looked_at_often_enough() {
    let now: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
    let at = |text: &str| pause_before(text.parse().unwrap(), now);
    assert_eq!(at("2030-01-01T00:00:30Z"), Duration::from_secs(30));
    assert_eq!(at("2031-01-01T00:00:00Z"), LONGEST);
    assert_eq!(at("2029-01-01T00:00:00Z"), SHORTEST, "an answer that is already over is no reason to hammer");
}
