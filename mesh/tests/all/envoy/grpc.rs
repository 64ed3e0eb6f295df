//! gRPC through two real Envoys: both directions at once, and the status in the trailers.

use std::io::{Read, Write};
use std::net::TcpStream;

use crds::mesh_config::{Authorization, Egress, Mtls};
use discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient as Client;
use discovery::aggregated_discovery_service_server as server;
use discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use envoy_types::pb::envoy::service::discovery::v3 as discovery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use envoys::VERSIONS;

use super::apps::{ask, serve};
use super::protocols::{Declared, Pair};
use crate::world::*;

/// Repeats a text, and has enough at "enough".
struct Echo;

#[tonic::async_trait]
impl server::AggregatedDiscoveryService for Echo {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("this one does not"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let mut asked = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(one)) = asked.message().await {
                let answer = if one.response_nonce == "enough" {
                    Err(Status::resource_exhausted("that is enough"))
                } else {
                    Ok(DeltaDiscoveryResponse { nonce: one.response_nonce, ..Default::default() })
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn grpc_app() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let service = server::AggregatedDiscoveryServiceServer::new(Echo);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    port
}

fn text(text: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: text.to_owned(), ..Default::default() }
}

/// Ports that say what they speak, and one that does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_streams_and_trailers_pass() {
    let app = grpc_app().await;
    let declared = [
        Declared::name("grpc-api"),
        Declared { name: "x", app_protocol: Some("kubernetes.io/h2c") },
        Declared { name: "x", app_protocol: Some("grpc") },
        Declared::default(),
    ];
    for version in VERSIONS {
        for declared in declared {
            let settings = settings_with(Mtls::Strict, Authorization::AllowAll, Egress::Deny);
            let pair = Pair::new(version, settings, declared, |_| Vec::new(), app);
            let caller = pair.caller("buyer", "out|shop|store|80");
            let mut client = Client::connect(format!("http://127.0.0.1:{}", caller.port)).await.unwrap();
            let (sender, receiver) = mpsc::channel(1);
            let answer = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap();
            let mut answers = answer.into_inner();
            // Each answer comes before the next question is asked.
            for word in ["one", "two"] {
                sender.send(text(word)).await.unwrap();
                assert_eq!(answers.message().await.unwrap().unwrap().nonce, word, "{version}");
            }
            sender.send(text("enough")).await.unwrap();
            let status = answers.message().await.unwrap_err();
            assert_eq!(
                (status.code(), status.message()),
                (Code::ResourceExhausted, "that is enough"),
                "{version}"
            );
            let empty = tokio_stream::empty::<DiscoveryRequest>();
            let status = client.stream_aggregated_resources(empty).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{version}: a status without a body");
        }
    }
}

/// HTTP/2 frame types (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream, payload].concat()
}

/// Answers each request with empty DATA frames, and then "ok".
fn hesitating(mut stream: TcpStream) {
    stream.read_exact(&mut [0; "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).unwrap();
    stream.write_all(&frame(SETTINGS, 0, [0; 4], &[])).unwrap();
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let [high, middle, low, kind, flags, id @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, high, middle, low]) as usize];
        stream.read_exact(&mut payload).unwrap();
        let answer = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, [0; 4], &[]),
            // 0x88 is ":status: 200" (RFC 7541, appendix A).
            HEADERS => [
                frame(HEADERS, END_HEADERS, id, &[0x88]),
                frame(DATA, 0, id, &[]).repeat(50),
                frame(DATA, END_STREAM, id, b"ok"),
            ]
            .concat(),
            _ => Vec::new(),
        };
        stream.write_all(&answer).unwrap();
    }
}

/// Two in a row would be enough for Envoy to end the connection, with the streams of all callers.
#[test]
fn empty_frames_of_an_application_end_no_connection() {
    let app = serve(hesitating);
    for version in VERSIONS {
        let settings = settings_with(Mtls::Strict, Authorization::AllowAll, Egress::Deny);
        let declared = Declared { name: "x", app_protocol: Some("kubernetes.io/h2c") };
        let pair = Pair::new(version, settings, declared, |_| Vec::new(), app);
        let caller = pair.caller("buyer", "out|shop|store|80");
        for _ in 0..3 {
            let (status, answer) = ask(caller.port, "GET", "/", &[]).unwrap();
            assert!(status == 200 && answer.contains("ok\r\n"), "{version}: {answer}");
        }
    }
}
