//! The acceptor with real connections on loopback.

use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use std::time::Duration;
use tokio::net::TcpListener;

use super::guests::Places;
use super::serve::{Handshakes, serve_with};
use super::*;
use crate::https::{HttpsError, Limits, Peer, send};
use crate::shutdown::Shutdown;

const LIMITS: Limits = Limits { time: Duration::from_secs(20), body: 1000 };

pub(crate) fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for one DNS name.
fn certificate(authority: &CertifiedIssuer<'static, KeyPair>, name: &str) -> Arc<Certificate> {
    let result = Certificate::none();
    renew(&result, authority, name);
    result
}

fn renew(certificate: &Certificate, authority: &CertifiedIssuer<'static, KeyPair>, name: &str) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = params.signed_by(&key, authority).unwrap();
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    certificate.set(&leaf.pem(), der).unwrap();
}

fn roots(authority: &CertifiedIssuer<'static, KeyPair>) -> Arc<Roots> {
    let roots = Roots::none();
    roots.set(&authority.pem()).unwrap();
    roots
}

/// Serves the number of the caller's certificates; returns where, its counts and how to stop it.
async fn server(certificate: Arc<Certificate>, clients: ClientAuth) -> (String, Metrics, Shutdown) {
    server_with(Handshakes::default(), certificate, clients).await
}

async fn server_with(
    handshakes: Handshakes,
    certificate: Arc<Certificate>,
    clients: ClientAuth,
) -> (String, Metrics, Shutdown) {
    server_of((handshakes, Places::default()), certificate, clients).await
}

async fn server_of(
    limits: (Handshakes, Places),
    certificate: Arc<Certificate>,
    clients: ClientAuth,
) -> (String, Metrics, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let router = Router::new().route(
        "/",
        get(|Extension(peer): Extension<PeerCertificates>| async move { peer.0.len().to_string() }),
    );
    let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
    let config = server_config(certificate, clients).unwrap();
    let serving = serve_with(limits, listener, config, router, metrics.clone(), shutdown.clone());
    tokio::spawn(serving);
    (address, metrics, shutdown)
}

async fn ask(
    address: &str,
    name: &str,
    certificate: Arc<Certificate>,
    roots: Arc<Roots>,
) -> Result<String, HttpsError> {
    let peer = Peer { address: address.to_owned(), server_name: name.to_owned() };
    let request = http::Request::get("/").body(Full::new(Bytes::new())).unwrap();
    let (status, body) = send(&peer, client_config(certificate, roots).unwrap(), request, LIMITS).await?;
    assert_eq!(status, 200);
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_replaced_certificate_counts_for_the_next_handshake() {
    let authority = authority();
    let (own, trusted) = (certificate(&authority, "old.test"), roots(&authority));
    let (address, metrics, _shutdown) = server(own.clone(), ClientAuth::None).await;
    assert_eq!(ask(&address, "old.test", Certificate::none(), trusted.clone()).await.unwrap(), "0");
    renew(&own, &authority, "new.test");
    let refused = ask(&address, "old.test", Certificate::none(), trusted.clone()).await;
    assert!(matches!(refused, Err(HttpsError::Tls(..))), "{refused:?}");
    assert_eq!(ask(&address, "new.test", Certificate::none(), trusted).await.unwrap(), "0");
    assert!(metrics.failed_handshakes.get() >= 1);
}

#[tokio::test]
async fn client_certificates_are_optional_verified_and_handed_on() {
    let (authority, stranger) = (authority(), self::authority());
    let (own, clients) = (certificate(&authority, "server.test"), Roots::none());
    let (address, ..) = server(own, ClientAuth::Optional(clients.clone())).await;
    let good = || certificate(&authority, "client.test");
    let asked = |certificate| ask(&address, "server.test", certificate, roots(&authority));
    assert_eq!(asked(good()).await.unwrap(), "0", "without roots no certificate is asked for");
    clients.set(&authority.pem()).unwrap();
    assert_eq!(asked(good()).await.unwrap(), "1");
    assert_eq!(asked(Certificate::none()).await.unwrap(), "0");
    assert!(asked(certificate(&stranger, "client.test")).await.is_err(), "an unknown authority is refused");
}

const MOMENT: Duration = Duration::from_millis(5);
const HOUR: Duration = Duration::from_secs(3600);

/// Whether somebody is served although others, of whom there are more than places, have said this and nothing more.
async fn serves_beside(handshakes: Handshakes, said: &[u8]) {
    use std::io::Write as _;

    let authority = authority();
    let own = certificate(&authority, "a.test");
    let (address, metrics, _shutdown) = server_with(handshakes, own, ClientAuth::None).await;
    let stalled = [(); 4].map(|()| {
        let mut peer = std::net::TcpStream::connect(&address).unwrap();
        peer.write_all(said).unwrap();
        peer
    });
    assert_eq!(ask(&address, "a.test", Certificate::none(), roots(&authority)).await.unwrap(), "0");
    assert_eq!(metrics.failed_handshakes.get(), 0, "they are still waited for");
    drop(stalled);
}

#[tokio::test]
async fn silent_peers_take_no_place() {
    serves_beside(Handshakes { places: 2, place: HOUR, queue: HOUR, limit: HOUR }, b"").await;
}

#[tokio::test]
async fn peers_that_stall_lose_their_place() {
    serves_beside(Handshakes { places: 2, place: MOMENT, queue: HOUR, limit: HOUR }, b"\x16\x03\x01").await;
}

#[tokio::test]
async fn peers_that_hold_places_delay_others_for_a_moment() {
    serves_beside(Handshakes { places: 2, place: HOUR, queue: MOMENT, limit: HOUR }, b"\x16\x03\x01").await;
}

/// The kernel's queue is emptied even if every worker is busy: a queue that overflows costs peers seconds.
#[tokio::test]
async fn connections_are_taken_while_the_workers_are_busy() {
    let authority = authority();
    let (address, metrics, _shutdown) = server(certificate(&authority, "a.test"), ClientAuth::None).await;
    ask(&address, "a.test", Certificate::none(), roots(&authority)).await.unwrap();
    let before = metrics.accepted.get();
    // From here to the end the one worker, which is this test, does nothing else.
    let peers: Vec<_> = (0..50).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    let begin = std::time::Instant::now();
    while metrics.accepted.get() - before < peers.len() as u64 {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} were taken", metrics.accepted.get());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_old_in_place() {
    let authority = authority();
    let (own, trusted) = (certificate(&authority, "a.test"), roots(&authority));
    let foreign =
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KeyPair::generate().unwrap().serialize_der()));
    assert!(own.set(&authority.pem(), foreign).is_err(), "key and certificate do not belong together");
    assert!(matches!(trusted.set("not PEM"), Err(TlsError::Empty)));
    assert!(trusted.set("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
    let (address, ..) = server(own, ClientAuth::None).await;
    assert_eq!(ask(&address, "a.test", Certificate::none(), trusted).await.unwrap(), "0");
}

#[tokio::test]
async fn a_server_without_certificate_or_a_stopped_one_takes_nobody() {
    let authority = authority();
    let (address, metrics, shutdown) = server(Certificate::none(), ClientAuth::None).await;
    assert!(ask(&address, "a.test", Certificate::none(), roots(&authority)).await.is_err());
    assert_eq!(metrics.failed_handshakes.get(), 1);
    shutdown.begin();
    // The listener is closed as soon as its task notices; until then a connection is accepted and dropped.
    let closed = async {
        while tokio::net::TcpStream::connect(&address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.expect("the port closes");
}

#[tokio::test]
async fn one_address_takes_its_places_and_no_more_and_gets_them_back() {
    use tokio::io::AsyncReadExt;
    let authority = authority();
    let certificate = certificate(&authority, "here.test");
    let places = Places { each: 3, exempt: |_| false, ..Places::default() };
    let (address, metrics, _shutdown) =
        server_of((Handshakes::default(), places), certificate, ClientAuth::None).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    // Closed at once, without a word; the three are left alone.
    let mut fourth = tokio::net::TcpStream::connect(&address).await.unwrap();
    assert!(matches!(fourth.read(&mut [0]).await, Ok(0) | Err(_)));
    assert_eq!(metrics.crowded_out.get(), 1);
    drop(silent);
    let answered = async {
        loop {
            if let Ok(text) = ask(&address, "here.test", Certificate::none(), roots(&authority)).await {
                return text;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(60), answered).await.unwrap(), "0");
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    use tokio::io::AsyncReadExt;
    let authority = authority();
    let certificate = certificate(&authority, "here.test");
    let places = Places { idle: Duration::from_millis(50), ..Places::default() };
    let (address, metrics, _shutdown) =
        server_of((Handshakes::default(), places), certificate, ClientAuth::None).await;
    let mut config = (*client_config(Certificate::none(), roots(&authority)).unwrap()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let mut stream = connector.connect("here.test".try_into().unwrap(), stream).await.unwrap();
    let mut buffer = [0; 1024];
    let closed = async { while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {} };
    tokio::time::timeout(Duration::from_secs(60), closed).await.unwrap();
    assert_eq!(metrics.idle.get(), 1);
}
