//! Whose TLS reaches what: hostile clients at every kind of port, in every mode, against one real Envoy. What a client
//! reaches by any trick is what `decide` says that it may.
//!
//! ```text
//!  client (rustls, checks nothing) ──TLS or plaintext──▶ Envoy: the inbound chains of six pods, one per mode ──▶ app
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crds::mesh_config::{Authorization, Mtls};
use envoys::{Config, Envoy, Identities, VERSIONS, free_port};
use mesh::decide::{Callee, Caller, Request, Stranger, StrangerTls};
use mesh::{Call, Mesh, Object, Verdict, decide};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};

use super::apps::{app, is_whole};
use super::live::config;
use crate::world::*;

const MTLS: [Mtls; 2] = [Mtls::Strict, Mtls::Permissive];
const AUTHORIZATION: [Authorization; 3] =
    [Authorization::Enforce, Authorization::Audit, Authorization::AllowAll];
/// What the services say of their ports: HTTP, bytes, nothing.
const PROTOCOLS: [&str; 3] = ["http", "tcp", ""];

/// What IngressBackends say of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// Nothing.
    Not,
    /// Plaintext callers may come.
    Plaintext,
    /// Callers with a certificate of the mesh.
    Certified,
    /// Callers with a certificate that names a partner's gateway.
    Partner,
    /// Callers with TLS, with a certificate or without.
    Certless,
    /// Both of the last two, for one port.
    CertifiedOrNot,
}

const OPENED: [Opened; 6] = [
    Opened::Not,
    Opened::Plaintext,
    Opened::Certified,
    Opened::Partner,
    Opened::Certless,
    Opened::CertifiedOrNot,
];

/// One port of one pod.
#[derive(Debug, Clone, Copy)]
struct Port {
    mtls: Mtls,
    authorization: Authorization,
    protocol: &'static str,
    opened: Opened,
    number: u16,
}

impl Port {
    fn pod(self) -> String {
        format!("{:?}-{:?}", self.mtls, self.authorization).to_lowercase()
    }
}

fn ports() -> Vec<Port> {
    let mut ports = Vec::new();
    for (mtls, authorization) in MTLS.iter().flat_map(|mtls| AUTHORIZATION.map(|mode| (*mtls, mode))) {
        for (protocol, opened) in PROTOCOLS.iter().flat_map(|one| OPENED.map(|opened| (*one, opened))) {
            ports.push(Port { mtls, authorization, protocol, opened, number: free_port() });
        }
    }
    ports
}

const PARTNER: &str = "gateway.partner.example";

fn backends(port: Port, service: &str) -> Vec<Object> {
    let from = json!([{"kind": "IPRange", "name": "127.0.0.0/8"}]);
    let partner = json!([{"kind": "AuthenticatedPrincipal", "name": PARTNER}]);
    let tls = |skip: bool| json!({"skipClientCertValidation": skip});
    let all: Vec<(&str, Value, Value)> = match port.opened {
        Opened::Not => vec![],
        Opened::Plaintext => vec![("http", Value::Null, from)],
        Opened::Certified => vec![("https", tls(false), from)],
        Opened::Partner => vec![("https", tls(false), partner)],
        Opened::Certless => vec![("https", tls(true), from)],
        Opened::CertifiedOrNot => {
            // Without a certificate only from where nobody is.
            let nowhere = json!([{"kind": "IPRange", "name": "192.0.2.1/32"}]);
            vec![("https", tls(true), nowhere), ("https", tls(false), from)]
        }
    };
    let backend = |(index, (protocol, tls, sources)): (usize, (&str, Value, Value))| {
        let mut one = json!({"name": service, "port": {"number": port.number, "protocol": protocol}});
        if !tls.is_null() {
            one["tls"] = tls;
        }
        policy(
            "IngressBackend",
            &format!("{service}-{index}"),
            json!({"backends": [one], "sources": sources}),
        )
    };
    all.into_iter().enumerate().map(backend).collect()
}

/// The buyer may do everything everywhere, where TrafficTargets count.
fn world(ports: &[Port]) -> Mesh {
    let numbers: Vec<u16> = ports.iter().map(|port| port.number).collect();
    let mut objects = vec![
        namespace(NS, "demo"),
        policy("TCPRoute", "all", json!({"matches": {"ports": numbers}})),
        target("buyer", "store", &["buyer"], tcp("all")),
    ];
    for (index, port) in ports.iter().enumerate() {
        let (pod_name, service_name) = (port.pod(), format!("s{index}"));
        objects.push(pod(&pod_name, "store", &pod_name));
        let mode = json!({
            "selector": {"matchLabels": {"app": pod_name}}, "mtls": port.mtls, "authorization": port.authorization,
        });
        objects.push(policy("MeshPolicy", &pod_name, mode));
        let address = format!("10.0.1.{index}");
        let declared = [(port.protocol, 80, json!(port.number))];
        objects.push(service(&service_name, &address, json!({"app": pod_name}), &declared));
        objects.extend(backends(*port, &service_name));
    }
    let mesh = mesh(objects);
    assert_eq!(mesh.problems(), vec![]);
    mesh
}

/// The inbound chains of all pods in one Envoy.
fn server(version: &str, mesh: &Mesh, identities: &Identities, ports: &[Port]) -> (Envoy, tempfile::TempDir) {
    let secrets = identities.issue(NS, "store");
    let mut whole = Config::default();
    let mut pods: Vec<_> = ports.iter().map(|port| port.pod()).collect();
    pods.dedup();
    for pod in pods {
        let own: Vec<_> = ports.iter().filter(|port| port.pod() == pod).map(|port| port.number).collect();
        let mut one = config(mesh, &pod, &secrets);
        one.listen("inbound", &own);
        one.listeners[0].name = pod;
        whole.listeners.extend(one.listeners);
        let known: Vec<_> = whole.clusters.iter().map(|cluster| cluster.name.clone()).collect();
        whole.clusters.extend(one.clusters.into_iter().filter(|cluster| !known.contains(&cluster.name)));
    }
    for cluster in ["inbound", "inbound-h2"] {
        whole.lead(cluster, app());
    }
    let mut envoy = Envoy::spawn(version, &whole);
    for port in ports {
        envoy.until_listening(version, SocketAddr::from(([127, 0, 0, 1], port.number)));
    }
    (envoy, secrets)
}

/// Somebody who calls.
struct Client {
    what: &'static str,
    /// `None` is plaintext; a certificate with its key.
    tls: Option<Option<(String, String)>>,
    /// Whether the server can take the certificate for one that its root vouches for; its name.
    shown: Option<&'static str>,
    /// Whether nothing it does is ever good enough.
    hopeless: bool,
}

const BUYER: &str = "spiffe://cluster.local/ns/shop/sa/buyer";
const THIEF: &str = "spiffe://cluster.local/ns/shop/sa/thief";
const ELSEWHERE: &str = "spiffe://other.example/ns/shop/sa/buyer";
const ALMOST: &str = "spiffe://cluster.local.example/ns/shop/sa/buyer";

fn clients(root: &Identities) -> Vec<Client> {
    let foreign = Identities::new();
    let shows = |what, name: &'static str| Client {
        what,
        tls: Some(Some(root.certificate(&[name], None))),
        shown: Some(name),
        hopeless: false,
    };
    vec![
        Client { what: "plaintext", tls: None, shown: None, hopeless: false },
        Client { what: "no certificate", tls: Some(None), shown: None, hopeless: false },
        shows("another trust domain under the right root", ELSEWHERE),
        shows("a trust domain that begins like ours", ALMOST),
        shows("a DNS name under the right root", "buyer.shop.example"),
        shows("the partner", PARTNER),
        Client {
            what: "our name as a common name only",
            tls: Some(Some(root.certificate(&[], Some(BUYER)))),
            shown: Some(""),
            hopeless: false,
        },
        Client {
            what: "a foreign root",
            tls: Some(Some(foreign.certificate(&[BUYER], None))),
            shown: Some(""),
            hopeless: true,
        },
        shows("a member", THIEF),
        shows("a member that is granted everything", BUYER),
    ]
}

/// Takes any server for the right one.
#[derive(Debug)]
struct Trusting(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client says that it speaks: nothing, HTTP, what sidecars say of bytes.
const ALPN: [Option<&str>; 3] = [None, Some("http/1.1"), Some("meshwright-bytes")];

impl Client {
    fn member(&self) -> bool {
        matches!(self.shown, Some(BUYER | THIEF))
    }

    /// How it opens a connection: once without TLS, else once for each ALPN.
    fn ways(&self) -> Vec<Option<Arc<ClientConfig>>> {
        let Some(certificate) = &self.tls else { return vec![None] };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let way = |alpn: Option<&str>| {
            let builder = ClientConfig::builder_with_provider(provider.clone());
            let builder = builder.with_safe_default_protocol_versions().unwrap();
            let builder = builder.dangerous();
            let builder = builder.with_custom_certificate_verifier(Arc::new(Trusting(provider.clone())));
            let mut config = match certificate {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => builder
                    .with_client_auth_cert(
                        vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                        PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                    )
                    .unwrap(),
            };
            config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
            Some(Arc::new(config))
        };
        ALPN.map(way).into()
    }

    /// Whether what it sends reaches the application in any way.
    fn reaches(&self, port: u16, sent: &[u8]) -> bool {
        self.ways().into_iter().any(|way| {
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(60))).unwrap();
            let Some(config) = way else { return answered(stream, sent) };
            let name = ServerName::try_from("store.shop.svc").unwrap();
            answered(StreamOwned::new(ClientConnection::new(config, name).unwrap(), stream), sent)
        })
    }
}

fn answered(mut stream: impl Read + Write, sent: &[u8]) -> bool {
    if stream.write_all(sent).is_err() {
        return false;
    }
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&answer) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
        }
    }
    answer.starts_with(b"HTTP/1.1 200 ")
}

/// A request and a connection that carries something else, with what is sent.
fn questions() -> [(Request, &'static [u8]); 2] {
    let headers = [("host".to_owned(), "store".to_owned())].into();
    let request = Request::Http { method: "GET".to_owned(), path: "/".to_owned(), headers };
    [
        (request, b"GET / HTTP/1.1\r\nhost: store\r\nconnection: close\r\n\r\n"),
        (Request::Tcp, b"HELLO there\r\n\r\n"),
    ]
}

fn said(mesh: &Mesh, client: &Client, port: Port, request: &Request) -> bool {
    let tls = client.tls.as_ref().map(|_| StrangerTls {
        name: client.shown.map(str::to_owned),
        server_name: Some("store.shop.svc".to_owned()),
    });
    let from = Caller::Outside(Stranger { address: "127.0.0.1".parse().unwrap(), tls });
    let to = Callee::Pod { namespace: NS.to_owned(), name: port.pod(), port: port.number };
    matches!(decide(mesh, &Call { from, to, request: request.clone() }), Verdict::Allowed(_))
}

/// What a client does at each port that it should not, or cannot and should; and what it reached.
fn compare(mesh: &Mesh, client: &Client, ports: &[Port]) -> (Vec<String>, usize) {
    let (mut wrong, mut reached) = (Vec::new(), 0);
    for port in ports {
        for (request, sent) in questions() {
            let really = client.reaches(port.number, sent);
            let expected = said(mesh, client, *port, &request);
            let expected = expected && !client.hopeless;
            // Whoever shows no certificate of the mesh, and none that is named, has what whoever shows none has.
            let asks = !matches!(port.opened, Opened::Certless | Opened::CertifiedOrNot);
            let named = client.shown == Some(PARTNER) && port.opened == Opened::Partner;
            let stranger = client.tls.is_some() && !client.member();
            assert!(!(stranger && asks && !named && really), "{} at {port:?} {request:?}", client.what);
            reached += usize::from(really);
            if really != expected {
                wrong.push(format!("{} at {port:?}: {request:?}: {really}", client.what));
            }
        }
    }
    (wrong, reached)
}

#[test]
fn tls_without_a_certificate_of_the_trust_domain_reaches_nothing_that_asks_for_one() {
    for version in VERSIONS {
        let (ports, identities) = (ports(), Identities::new());
        let mesh = world(&ports);
        let (_server, _secrets) = server(version, &mesh, &identities, &ports);
        let clients = clients(&identities);
        let found = std::thread::scope(|scope| {
            let (mesh, ports) = (&mesh, &ports);
            let run = |client| scope.spawn(move || compare(mesh, client, ports));
            let threads: Vec<_> = clients.iter().map(run).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let wrong: Vec<_> = found.iter().flat_map(|(wrong, _)| wrong).collect();
        assert!(wrong.is_empty(), "Envoy {version}: {} cells: {wrong:#?}", wrong.len());
        for (client, (_, reached)) in clients.iter().zip(&found) {
            assert_eq!(client.hopeless, *reached == 0, "Envoy {version}, {}: {reached} cells", client.what);
        }
    }
}
