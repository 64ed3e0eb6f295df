//! Holds a starting Envoy back: its bootstrap has a listener that waits for routes from this program, and Envoy takes
//! over from its predecessor only when all it waits for has come. The gate opens when the new Envoy has accepted its
//! configuration; if it never does, it is stopped before anybody noticed.
//!
//! This is the smallest management server: it answers every call with one route, when it may.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::adapters::Chain;
use tokio_stream::{Once, Pending, StreamExt, once, pending};

use super::Slot;

/// Name of its cluster, its listener and the route that it waits for.
pub(super) const NAME: &str = "gate";

/// Loopback port of a slot's gate.
#[must_use]
pub fn port(slot: Slot) -> u16 {
    match slot {
        Slot::A => names::GATE_PORT_A,
        Slot::B => names::GATE_PORT_B,
    }
}

/// A gate, closed at first; gone when dropped.
#[derive(Debug)]
pub struct Gate {
    open: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Gate {
    /// Serves on the slot's port.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(slot: Slot) -> std::io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port(slot)))).await?;
        let (open, opened) = watch::channel(false);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let opened = opened.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(|request| answer(request, opened.clone()));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Ok(Self { open, server })
    }

    /// Lets the Envoy of this slot, and every later one, go on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Holds back the next Envoy of this slot.
    pub fn close(&self) {
        self.open.send_replace(false);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Item = Result<Frame<Bytes>, Infallible>;
type Body = StreamBody<Chain<Once<Item>, Pending<Item>>>;

/// One answer, once the gate is open; then the stream stays as it is, so that Envoy doesn't ask again.
async fn answer(
    _: Request<Incoming>,
    mut opened: watch::Receiver<bool>,
) -> Result<Response<Body>, Infallible> {
    // An error means that the gate is gone, and its server with it.
    let _ = opened.wait_for(|open| *open).await;
    let frame = Ok(Frame::data(message()));
    let mut response = Response::new(StreamBody::new(once(frame).chain(pending())));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// The cluster and the listener of a bootstrap that make Envoy wait.
#[must_use]
pub fn bootstrap(slot: Slot) -> (Value, Value) {
    let address = |port: u16| json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } });
    let cluster = json!({
        "name": NAME,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": { "cluster_name": NAME, "endpoints": [{ "lb_endpoints": [
            { "endpoint": { "address": address(port(slot)) } },
        ] }] },
        "typed_extension_protocol_options": { "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        } },
    });
    let manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let listener = json!({
        "name": NAME,
        // Nobody can connect to it: all it does is to wait for its routes.
        "bind_to_port": false,
        "address": address(port(slot)),
        "filter_chains": [{ "filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": manager,
                "stat_prefix": NAME,
                "rds": { "route_config_name": NAME, "config_source": {
                    "resource_api_version": "V3",
                    "initial_fetch_timeout": "0s",
                    "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [
                        { "envoy_grpc": { "cluster_name": NAME } },
                    ] },
                } },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
                }],
            },
        }] }],
    });
    (cluster, listener)
}

/// A gRPC frame with a `DiscoveryResponse` (envoy.service.discovery.v3) that holds the one, empty route.
fn message() -> Bytes {
    let kind = b"type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
    let route = field(1, NAME.as_bytes());
    let resource = [field(1, kind), field(2, &route)].concat();
    let response = [field(1, b"1"), field(2, &resource), field(4, kind), field(5, b"1")].concat();
    let mut frame = vec![0, 0, 0, 0];
    frame.push(u8::try_from(response.len()).unwrap_or(u8::MAX));
    frame.extend(response);
    frame.into()
}

/// A field of bytes in Protocol Buffers' encoding.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        field.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend(bytes);
    field
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
    use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
    use prost::Message;

    use super::*;

    #[test]
    fn the_answer_is_what_envoy_reads() {
        let frame = message();
        assert_eq!(usize::from(frame[4]), frame.len() - 5);
        let response = DiscoveryResponse::decode(&frame[5..]).unwrap();
        assert_eq!((response.version_info.as_str(), response.nonce.as_str()), ("1", "1"));
        assert_eq!(response.resources[0].type_url, response.type_url);
        let route = RouteConfiguration::decode(response.resources[0].value.as_slice()).unwrap();
        assert_eq!(route.name, NAME);
    }
}
