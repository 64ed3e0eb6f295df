//! The client against a controller that this file plays, over real TLS.

use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, IsCa, KeyPair,
    SanType,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::shutdown::Shutdown;

type Authority = CertifiedIssuer<'static, KeyPair>;

const OWN: &str = "spiffe://cluster.local/ns/mesh/sa/injector";

/// What the controller shall answer next, and what it was asked.
#[derive(Default)]
struct Script {
    /// Whose certificate it gives, if not the caller's.
    foreign: Option<&'static str>,
    /// The word of the operator that it obeys.
    serial: i64,
    /// Another key than that of the request is signed.
    swapped: bool,
    refuse: Option<(u16, &'static str)>,
    tokens: Vec<String>,
    keys: Vec<Vec<u8>>,
}

fn token() -> String {
    let claims = json!({"sub": "system:serviceaccount:mesh:injector"}).to_string();
    format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(claims))
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
    let mut request = CertificateSigningRequestParams::from_pem(body).unwrap();
    script.keys.push(rcgen::PublicKeyData::der_bytes(&request.public_key).to_vec());
    let id = script.foreign.unwrap_or(OWN);
    request.params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    let chain = if script.swapped {
        request.params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().pem()
    } else {
        request.signed_by(authority).unwrap().pem()
    };
    let answer = json!({
        "certificateChain": chain, "trustBundle": authority.pem(),
        "notAfter": "2999-01-01T00:00:00Z", "renewAfter": "2998-01-01T00:00:00Z", "serial": script.serial,
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
    let ask: AskForToken = Arc::new(|| Box::pin(async { Ok(token() + "\n") }));
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
    assert_eq!(script.tokens, [format!("Bearer {}", token()), format!("Bearer {}", token())]);
    assert_ne!(script.keys[0], script.keys[1]);
}

#[tokio::test]
async fn a_refusal_is_told_in_the_controllers_words_and_keeps_the_old_certificate() {
    let (client, script, trust) = scene().await;
    client.issue().await.unwrap();
    script.lock().refuse = Some((401, "TokenExpired"));
    let refused = client.issue().await;
    assert!(
        matches!(&refused, Err(CertificateError::Answer(AnswerError::Refused { status, reason, .. }))
            if status.as_u16() == 401 && reason == "TokenExpired"),
        "{refused:?}"
    );
    assert!(client.identity().certificate.is_set());
    trust.store(None);
    assert!(matches!(client.issue().await, Err(CertificateError::Trust(_))));
    trust.store(Some(Arc::new(authority().pem())));
    assert!(matches!(client.issue().await, Err(CertificateError::Https(_))), "a controller of another root");
}

/// A daemon serves as whom it takes itself for, with the key that it made, and with no other.
#[tokio::test]
async fn a_certificate_of_somebody_else_or_for_another_key_is_refused() {
    let (client, script, _trust) = scene().await;
    script.lock().foreign = Some("spiffe://cluster.local/ns/shop/sa/injector");
    let refused = client.issue().await;
    assert!(matches!(&refused, Err(CertificateError::Answer(AnswerError::Unusable(_)))), "{refused:?}");
    assert!(!client.identity().certificate.is_set());
    script.lock().foreign = None;
    script.lock().swapped = true;
    let refused = client.issue().await;
    assert!(matches!(&refused, Err(CertificateError::Answer(AnswerError::Unusable(_)))), "{refused:?}");
    assert!(!client.identity().certificate.is_set());
    script.lock().swapped = false;
    assert!(client.issue().await.is_ok());
}

#[tokio::test]
async fn an_older_word_is_believed_when_every_controller_says_it() {
    let (client, script, _trust) = scene().await;
    script.lock().serial = 4;
    client.issue().await.unwrap();
    script.lock().serial = 3;
    for _ in 0..10 {
        let refused = client.issue().await;
        let outdated = matches!(&refused, Err(CertificateError::Outdated { serial: 3, heard: 4 }));
        assert!(outdated, "{refused:?}");
    }
    assert_eq!(client.issue().await.unwrap().trust.serial, 3, "the mesh was restored from a backup");
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
